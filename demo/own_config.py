# A config of mmdetection with parts of one's own; run it from the folder above, where Python finds demo/own_parts.py.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['demo.own_parts'], allow_failed_imports=False)

model = dict(  # small, from random weights: two minutes on two CPU cores
    backbone=dict(depth=18, base_channels=32, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256]),
    roi_head=dict(
        bbox_head=dict(type='SmallObjectsBBoxHead', small=24, num_classes=3, fc_out_channels=128),
        mask_head=dict(num_convs=1, num_classes=3),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=200, max_per_img=100), rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)

data_root = 'data/shapes/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='IgnoreThinBoxes', min_side=4),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')),
]
train_dataloader = dict(
    dataset=dict(
        type='CameraDataset',
        data_root=data_root,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type='CameraDataset',
        data_root=data_root,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CountingMetric', ann_file=None)  # the objects come with the samples, as 'instances'
test_evaluator = val_evaluator

custom_hooks = [dict(type='CamerasHook')]
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(optimizer=dict(lr=0.005))
auto_scale_lr = dict(base_batch_size=2)
param_scheduler = []
