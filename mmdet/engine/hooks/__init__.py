"""Hooks of our own."""
from .cbn_hook import CBNHook, cbn_layers
from .checkpoint_check_hook import CheckpointCheckHook, compare_checkpoint
from .resource_hook import ResourceHook

__all__ = ['CBNHook', 'CheckpointCheckHook', 'ResourceHook', 'cbn_layers', 'compare_checkpoint']
