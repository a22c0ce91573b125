_base_ = './faster_rcnn_r50_fpn_1x.py'

norm_cfg = dict(type='GN', num_groups=32)
model = dict(neck=dict(norm_cfg=norm_cfg), roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg)))
