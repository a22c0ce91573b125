"""Masks."""

from .polygons import polygons_to_bitmap
from .structures import BitmapMasks, PolygonMasks
from .utils import encode_mask_results

__all__ = ['BitmapMasks', 'PolygonMasks', 'encode_mask_results', 'polygons_to_bitmap']
