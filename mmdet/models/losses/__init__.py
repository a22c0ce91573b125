"""Losses."""

from .iou_losses import BoundedIoULoss, CIoULoss, DIoULoss, GIoULoss, IoULoss
from .losses import CrossEntropyLoss, L1Loss, SmoothL1Loss, accuracy, reduce_loss, smooth_l1_loss

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
    'reduce_loss',
    'smooth_l1_loss',
]
