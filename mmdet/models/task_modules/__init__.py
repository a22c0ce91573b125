"""Parts without parameters: anchors, coders, assigners, samplers."""

from .assigners import AssignResult, BboxOverlaps2D, MaxIoUAssigner
from .coders import DeltaXYWHBBoxCoder
from .prior_generators import AnchorGenerator, TorchvisionAnchorGenerator
from .samplers import OHEMSampler, PseudoSampler, RandomSampler, SamplingResult

__all__ = [
    'AnchorGenerator',
    'AssignResult',
    'BboxOverlaps2D',
    'DeltaXYWHBBoxCoder',
    'MaxIoUAssigner',
    'OHEMSampler',
    'PseudoSampler',
    'RandomSampler',
    'SamplingResult',
    'TorchvisionAnchorGenerator',
]
