_base_ = './mask_rcnn_r50_fpn_1x.py'

# The average of CBN+ and GN; the window from the end of the warm-up on
norm_cfg = dict(type='CBN+GN', num_groups=32, buffer_num=15, burnin=500)
model = dict(
    neck=dict(norm_cfg=norm_cfg), roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg))
)
