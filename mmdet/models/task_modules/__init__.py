"""Parts without parameters: anchors, coders, assigners, samplers."""

from .assigners import AssignResult, BboxOverlaps2D, MaxIoUAssigner
from .builder import (
    ANCHOR_GENERATORS,
    BBOX_ASSIGNERS,
    BBOX_CODERS,
    BBOX_SAMPLERS,
    IOU_CALCULATORS,
    PRIOR_GENERATORS,
    build_anchor_generator,
    build_assigner,
    build_bbox_coder,
    build_iou_calculator,
    build_prior_generator,
    build_sampler,
)
from .coders import DeltaXYWHBBoxCoder
from .prior_generators import AnchorGenerator, TorchvisionAnchorGenerator
from .samplers import OHEMSampler, PseudoSampler, RandomSampler, SamplingResult

__all__ = [
    'ANCHOR_GENERATORS',
    'BBOX_ASSIGNERS',
    'BBOX_CODERS',
    'BBOX_SAMPLERS',
    'IOU_CALCULATORS',
    'PRIOR_GENERATORS',
    'build_anchor_generator',
    'build_assigner',
    'build_bbox_coder',
    'build_iou_calculator',
    'build_prior_generator',
    'build_sampler',
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
