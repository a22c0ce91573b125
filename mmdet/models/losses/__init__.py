"""Losses."""

from .accuracy import accuracy
from .cross_entropy_loss import CrossEntropyLoss, binary_cross_entropy, cross_entropy, mask_cross_entropy
from .iou_loss import BoundedIoULoss, CIoULoss, DIoULoss, GIoULoss, IoULoss, bounded_iou_loss, iou_loss
from .smooth_l1_loss import L1Loss, SmoothL1Loss, l1_loss, smooth_l1_loss
from .utils import reduce_loss, weight_reduce_loss, weighted_loss

__all__ = [
    'BoundedIoULoss',
    'CIoULoss',
    'CrossEntropyLoss',
    'DIoULoss',
    'GIoULoss',
    'IoULoss',
    'L1Loss',
    'SmoothL1Loss',
    'accuracy',
    'binary_cross_entropy',
    'bounded_iou_loss',
    'cross_entropy',
    'iou_loss',
    'l1_loss',
    'mask_cross_entropy',
    'reduce_loss',
    'smooth_l1_loss',
    'weight_reduce_loss',
    'weighted_loss',
]
