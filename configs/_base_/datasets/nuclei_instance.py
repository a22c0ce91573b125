# 2018 Data Science Bowl, cell nuclei (BBBC038), in COCO format; up to 375 objects an image
_base_ = './small_set.py'

data_root = 'data/nuclei/'
metainfo = dict(classes=('nucleus',))
train_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json', proposal_nums=(1, 10, 200))
test_evaluator = val_evaluator
