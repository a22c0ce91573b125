"""Masks."""

from .structures import BitmapMasks, PolygonMasks, polygons_to_bitmap

__all__ = ['BitmapMasks', 'PolygonMasks', 'polygons_to_bitmap']
