"""Pieces of our own for mmengine's runner."""
from mmdet.utils.atomic_io import AtomicLocalBackend, write_atomic

from .hooks import CBNHook, CheckpointCheckHook, ResourceHook
from .runner import DetRunner, EpochBasedTrainLoop, IterBasedTrainLoop

__all__ = ['AtomicLocalBackend', 'CBNHook', 'CheckpointCheckHook', 'DetRunner', 'EpochBasedTrainLoop',
           'IterBasedTrainLoop', 'ResourceHook', 'write_atomic']
