"""Heads on regions."""

from .bbox_heads import BBoxHead, ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from .fcn_mask_head import FCNMaskHead
from .shared_heads import ResLayer
from .single_level_roi_extractor import SingleRoIExtractor
from .standard_roi_head import StandardRoIHead

__all__ = [
    'BBoxHead',
    'ConvFCBBoxHead',
    'FCNMaskHead',
    'ResLayer',
    'Shared2FCBBoxHead',
    'Shared4Conv1FCBBoxHead',
    'SingleRoIExtractor',
    'StandardRoIHead',
]
