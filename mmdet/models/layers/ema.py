"""Averages of a model's weights while it trains."""

import math
from typing import Any

import torch
from mmengine.model import ExponentialMovingAverage
from torch import Tensor, nn

from mmdet.mmdetection.arguments import ArgumentError
from mmdet.registry import MODELS


@MODELS.register_module()
class ExpMomentumEMA(ExponentialMovingAverage):
    """Averages weights exponentially, the faster the earlier (Ge et al., YOLOX, 2021), for mmengine's ``EMAHook``.

    At step t a weight w moves its average by m_t (w - average), with m_t = m + (1 - m) exp(-(1 + t) / gamma).

    Args:
        model: whose weights are averaged.
        momentum: m, between 0 and 1.
        gamma: steps of the warm-up.
        interval: average every so many steps.
        device: of the averages.
        update_buffers: average the running statistics, too; else they are the model's.

    Raises:
        ValueError: a ``gamma`` that is not above 0.

    Example:
        In a config; validation, and the weights of a checkpoint, are the averages::

            custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True)]
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        gamma: int = 2000,
        interval: int = 1,
        device: torch.device | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, momentum, interval, device, update_buffers)
        if not gamma > 0:
            raise ArgumentError(f'ExpMomentumEMA: gamma must be above 0, got {gamma}')
        self.gamma = gamma

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: Any) -> None:
        """Move an average, in place, towards the weights; ``steps`` is t."""
        momentum = self.momentum + (1 - self.momentum) * math.exp(-(1 + float(steps)) / self.gamma)
        averaged_param.mul_(1 - momentum).add_(source_param, alpha=momentum)
