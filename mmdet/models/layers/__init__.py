"""Building blocks shared by backbones, necks and heads."""

from .bbox_nms import batched_nms, multiclass_nms
from .conv_module import ConvModule
from .ema import ExpMomentumEMA
from .res_layer import ResLayer as ResLayer  # not for mmdet.models, where the shared head has this name

__all__ = ['ConvModule', 'ExpMomentumEMA', 'batched_nms', 'multiclass_nms']
