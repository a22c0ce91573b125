# lsj-100e_coco-detection.py with masks
_base_ = './lsj-100e_coco-detection.py'

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(with_mask=True)
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
