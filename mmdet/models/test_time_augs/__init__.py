"""Detections of several versions of an image, put together."""

from .det_tta import DetTTAModel

__all__ = ['DetTTAModel']
