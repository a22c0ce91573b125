_base_ = './mask_rcnn_r50_fpn_1x.py'

norm_cfg = dict(type='CBN', buffer_num=3, burnin=8, by_epoch=True)
model = dict(
    neck=dict(norm_cfg=norm_cfg), roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg))
)
