_base_ = './mask-rcnn_r18_fpn.py'

# Burn-in until the learning rate drops, as in the published setting
norm_cfg = dict(type='CBN', buffer_num=3, burnin=5, by_epoch=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)),
)
