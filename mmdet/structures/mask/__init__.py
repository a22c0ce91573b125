"""Masks."""

from .parts import MaskParts, draw_part
from .polygons import polygons_to_bitmap
from .structures import BitmapMasks, PolygonMasks
from .utils import encode_mask_results

__all__ = ['BitmapMasks', 'MaskParts', 'PolygonMasks', 'draw_part', 'encode_mask_results', 'polygons_to_bitmap']
