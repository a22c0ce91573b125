"""Pieces of our own for mmengine's runner."""
from mmdet.utils.atomic_io import AtomicLocalBackend, write_atomic

from .hooks import CBNHook, CheckpointCheckHook, ProgressHook, ResourceHook
from .runner import DetRunner, EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop

__all__ = ['AtomicLocalBackend', 'CBNHook', 'CheckpointCheckHook', 'DetRunner', 'EpochBasedTrainLoop',
           'IterBasedTrainLoop', 'ProgressHook', 'ResourceHook', 'ValLoop', 'write_atomic']
