"""Building blocks shared by backbones, necks and heads."""
from .conv_module import ConvModule

__all__ = ['ConvModule']
