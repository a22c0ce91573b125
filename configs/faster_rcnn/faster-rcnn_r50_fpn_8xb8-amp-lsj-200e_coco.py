_base_ = ['../_base_/models/faster-rcnn_r50_fpn.py', '../common/lsj-200e_coco-detection.py']

model = dict(data_preprocessor=dict(batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024))]))
train_dataloader = dict(batch_size=8, num_workers=4)
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(lr=0.02 * 4))
