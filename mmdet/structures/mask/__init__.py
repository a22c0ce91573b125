"""Masks."""

from .polygons import polygons_to_bitmap
from .structures import BitmapMasks, PolygonMasks

__all__ = ['BitmapMasks', 'PolygonMasks', 'polygons_to_bitmap']
