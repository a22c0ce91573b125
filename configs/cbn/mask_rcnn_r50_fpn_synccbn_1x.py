_base_ = './mask_rcnn_r50_fpn_1x.py'

# The paper's, pooled over the GPUs too: with 4 GPUs of 4 images 64 images a statistic
norm_cfg = dict(type='SyncCBN', buffer_num=3, burnin=8, by_epoch=True)
model = dict(
    neck=dict(norm_cfg=norm_cfg), roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg))
)
