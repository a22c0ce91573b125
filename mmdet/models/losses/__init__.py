"""Losses."""
from .losses import CrossEntropyLoss, L1Loss, SmoothL1Loss, accuracy, reduce_loss, smooth_l1_loss

__all__ = ['CrossEntropyLoss', 'L1Loss', 'SmoothL1Loss', 'accuracy', 'reduce_loss', 'smooth_l1_loss']
