"""Parts without parameters: anchors, coders, assigners, samplers."""
from .anchor_generator import AnchorGenerator
from .delta_xywh_bbox_coder import DeltaXYWHBBoxCoder
from .max_iou_assigner import AssignResult, BboxOverlaps2D, MaxIoUAssigner
from .ohem_sampler import OHEMSampler
from .random_sampler import PseudoSampler, RandomSampler, SamplingResult
from .torchvision_anchor_generator import TorchvisionAnchorGenerator

__all__ = ['AnchorGenerator', 'AssignResult', 'BboxOverlaps2D', 'DeltaXYWHBBoxCoder', 'MaxIoUAssigner', 'OHEMSampler',
           'PseudoSampler', 'RandomSampler', 'SamplingResult', 'TorchvisionAnchorGenerator']
