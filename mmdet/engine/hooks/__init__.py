"""Hooks of our own."""
from .cbn_hook import CBNHook, cbn_layers
from .checkpoint_check_hook import CheckpointCheckHook, compare_checkpoint
from .resource_hook import ResourceHook
from .visualization_hook import DetVisualizationHook

__all__ = ['CBNHook', 'CheckpointCheckHook', 'DetVisualizationHook', 'ResourceHook', 'cbn_layers', 'compare_checkpoint']
