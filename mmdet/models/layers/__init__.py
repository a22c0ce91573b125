"""Building blocks shared by backbones, necks and heads."""

from .bbox_nms import batched_nms, multiclass_nms
from .conv_module import ConvModule

__all__ = ['ConvModule', 'batched_nms', 'multiclass_nms']
