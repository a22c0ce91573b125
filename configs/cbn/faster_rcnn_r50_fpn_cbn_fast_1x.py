_base_ = './faster_rcnn_r50_fpn_1x.py'

# The paper's window and burn-in, closer to the truth and at nearly BN's price
norm_cfg = dict(type='CBN', buffer_num=3, burnin=8, by_epoch=True, compensation='secant', sample_stride=2)
model = dict(neck=dict(norm_cfg=norm_cfg), roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg)))
