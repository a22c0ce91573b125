"""Transforms of an image and its objects."""
from .formatting import PackDetInputs
from .geometry import FilterAnnotations, Pad, RandomChoiceResize, RandomFlip, RandomResize, Resize
from .loading import LoadAnnotations, LoadImageFromFile

__all__ = ['FilterAnnotations', 'LoadAnnotations', 'LoadImageFromFile', 'PackDetInputs', 'Pad',
           'RandomChoiceResize', 'RandomFlip', 'RandomResize', 'Resize']
