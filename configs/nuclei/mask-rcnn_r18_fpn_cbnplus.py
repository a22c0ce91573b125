_base_ = './mask-rcnn_r18_fpn.py'

# Pools as soon as the warm-up is over: the window's gradient makes a long burn-in needless
norm_cfg = dict(type='CBN+', buffer_num=15, burnin=100)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)),
)
