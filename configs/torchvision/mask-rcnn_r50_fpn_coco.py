# Detects as torchvision's maskrcnn_resnet50_fpn; weights: tools/model_converters/torchvision2mmdet.py
_base_ = [
    '../_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(init_cfg=None),
    rpn_head=dict(
        anchor_generator=dict(type='TorchvisionAnchorGenerator'),
        # deltas are bounded from above alone
        bbox_coder=dict(add_ctr_clamp=True, ctr_clamp=10**9),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2, aligned=False)),
        bbox_head=dict(bbox_coder=dict(add_ctr_clamp=True, ctr_clamp=10**9)),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=2, aligned=False)),
    ),
    # more than 1000 boxes go through NMS level by level (class by class), without the rounding of moved boxes
    test_cfg=dict(
        rpn=dict(min_bbox_size=1e-3, rank_logits=True, nms=dict(split_thr=1001)),
        rcnn=dict(min_bbox_size=1e-2, nms=dict(split_thr=1001)),
    ),
)
