# torchvision's second weights of ResNet-50, and AdamW
_base_ = './faster-rcnn_r50_fpn_1x_coco.py'

model = dict(backbone=dict(init_cfg=dict(checkpoint='https://download.pytorch.org/models/resnet50-11ad3fa6.pth')))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, weight_decay=0.1),
    paramwise_cfg=dict(norm_decay_mult=0.0, bypass_duplicate=True),
)
