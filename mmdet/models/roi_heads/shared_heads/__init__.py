"""Layers between the regions' features and both heads."""

from .res_layer import ResLayer

__all__ = ['ResLayer']
