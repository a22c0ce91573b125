"""Pieces of our own for mmengine's runner."""
from mmdet.utils.atomic_io import AtomicLocalBackend, write_atomic
from .hooks import CBNHook, CheckpointCheckHook, ResourceHook

__all__ = ['AtomicLocalBackend', 'CBNHook', 'CheckpointCheckHook', 'ResourceHook', 'write_atomic']
