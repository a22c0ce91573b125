"""Boxes as what a network can predict."""

from .delta_xywh_bbox_coder import BaseBBoxCoder, DeltaXYWHBBoxCoder

__all__ = ['BaseBBoxCoder', 'DeltaXYWHBBoxCoder']
