"""Anchors."""

from .anchor_generator import AnchorGenerator
from .torchvision_anchor_generator import TorchvisionAnchorGenerator

__all__ = ['AnchorGenerator', 'TorchvisionAnchorGenerator']
