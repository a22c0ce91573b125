"""Heads on every cell of the feature maps."""

from .rpn_head import RPNHead

__all__ = ['RPNHead']
