"""Hooks of our own."""

from .cbn_hook import CBNHook, cbn_layers
from .checkpoint_check_hook import CheckpointCheckHook
from .checkpoint_hook import CheckpointHook
from .early_stopping_hook import EarlyStoppingHook
from .gradient_hook import GradientHook
from .progress_hook import ProgressHook
from .resource_hook import ResourceHook
from .utils import trigger_visualization_hook
from .visualization_hook import DetVisualizationHook

__all__ = [
    'CBNHook',
    'CheckpointCheckHook',
    'CheckpointHook',
    'DetVisualizationHook',
    'EarlyStoppingHook',
    'GradientHook',
    'ProgressHook',
    'ResourceHook',
    'cbn_layers',
    'trigger_visualization_hook',
]
