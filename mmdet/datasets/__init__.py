"""Data sets and their transforms."""

from mmengine.dataset import ConcatDataset, RepeatDataset

from mmdet.registry import DATASETS

from . import transforms  # noqa: F401
from .base_det_dataset import BaseDetDataset
from .coco import CocoDataset
from .dataset_wrappers import MultiImageMixDataset
from .samplers import AspectRatioBatchSampler

for _wrapper in (ConcatDataset, RepeatDataset):
    DATASETS.register_module(module=_wrapper, force=True)  # also when this module is loaded again

__all__ = [
    'AspectRatioBatchSampler',
    'BaseDetDataset',
    'CocoDataset',
    'ConcatDataset',
    'MultiImageMixDataset',
    'RepeatDataset',
]
