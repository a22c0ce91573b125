"""Detectors and their parts."""
from . import (backbones, data_preprocessors, dense_heads, detectors, layers,  # noqa: F401
               losses, necks, roi_heads, task_modules)
