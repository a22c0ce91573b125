_base_ = './mask_rcnn_r50_fpn_1x.py'

# A window of 16 batches from the end of the warm-up on: with the window's gradient no long burn-in is needed
norm_cfg = dict(type='CBN+', buffer_num=15, burnin=500)
model = dict(
    neck=dict(norm_cfg=norm_cfg), roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg))
)
