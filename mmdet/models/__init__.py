"""Detectors and their parts."""
from mmdet.utils import checkpoint  # noqa: F401, pretrained weights are read by its loaders
from . import (backbones, data_preprocessors, dense_heads, detectors, layers,  # noqa: F401
               losses, necks, roi_heads, task_modules)
