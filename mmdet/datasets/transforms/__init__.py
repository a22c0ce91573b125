"""Transforms of an image and its objects."""

from .albu import Albu
from .crop import FilterAnnotations, RandomCrop
from .formatting import PackDetInputs
from .geometry import Pad, RandomChoiceResize, RandomFlip, RandomResize, Resize
from .loading import LoadAnnotations, LoadImageFromFile, LoadImageFromNDArray
from .mixing import CopyPaste
from .photometric import PhotoMetricDistortion
from .placing import Expand, MinIoURandomCrop, RandomAffine

__all__ = [
    'Albu',
    'CopyPaste',
    'Expand',
    'FilterAnnotations',
    'LoadAnnotations',
    'LoadImageFromFile',
    'LoadImageFromNDArray',
    'MinIoURandomCrop',
    'PackDetInputs',
    'Pad',
    'PhotoMetricDistortion',
    'RandomAffine',
    'RandomChoiceResize',
    'RandomCrop',
    'RandomFlip',
    'RandomResize',
    'Resize',
]
