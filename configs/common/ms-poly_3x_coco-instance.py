# ms_3x_coco-instance.py with masks that stay polygons
_base_ = './ms_3x_coco-instance.py'

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(poly2mask=False)
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(batch_size=2)
test_dataloader = val_dataloader
