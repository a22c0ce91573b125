"""Transforms of an image and its objects."""

from .crop import FilterAnnotations, RandomCrop
from .formatting import PackDetInputs
from .geometry import Pad, RandomChoiceResize, RandomFlip, RandomResize, Resize
from .loading import LoadAnnotations, LoadImageFromFile, LoadImageFromNDArray

__all__ = [
    'FilterAnnotations',
    'LoadAnnotations',
    'LoadImageFromFile',
    'LoadImageFromNDArray',
    'PackDetInputs',
    'Pad',
    'RandomChoiceResize',
    'RandomCrop',
    'RandomFlip',
    'RandomResize',
    'Resize',
]
