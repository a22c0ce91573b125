"""Pieces of our own for mmengine's runner."""

from mmdet.io.atomic import AtomicLocalBackend, write_atomic

from .amp import AmpOptimWrapper, amp_dtype
from .hooks import CBNHook, CheckpointCheckHook, GradientHook, ProgressHook, ResourceHook
from .runner import DetRunner, EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop

__all__ = [
    'AmpOptimWrapper',
    'AtomicLocalBackend',
    'CBNHook',
    'CheckpointCheckHook',
    'DetRunner',
    'EpochBasedTrainLoop',
    'GradientHook',
    'IterBasedTrainLoop',
    'ProgressHook',
    'ResourceHook',
    'ValLoop',
    'amp_dtype',
    'write_atomic',
]
