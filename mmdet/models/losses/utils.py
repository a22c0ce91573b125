"""Weights and means of losses."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn

REDUCTIONS = ('none', 'mean', 'sum')


def reduce_loss(loss: Tensor, reduction: str) -> Tensor:
    """Return a loss as it is ('none'), its mean ('mean'; of no elements 0) or its sum ('sum')."""
    if reduction == 'none':
        return loss
    return loss.mean() if reduction == 'mean' and loss.numel() else loss.sum()


def weight_reduce_loss(
    loss: Tensor, weight: Tensor | None = None, reduction: str = 'mean', avg_factor: float | Tensor | None = None
) -> Tensor:
    """Weigh and reduce an elementwise loss.

    Args:
        loss: any shape.
        weight: broadcastable to it, or None.
        reduction: 'none', 'sum' or 'mean'; a mean divides by ``avg_factor``, by default by the number of elements.
        avg_factor: what a mean divides by.

    Returns:
        ``loss``'s shape with 'none', else a scalar; 0 of no elements.

    Raises:
        ValueError: an ``avg_factor`` for a sum.
    """
    if weight is not None:
        loss = loss * weight
    if avg_factor is None or reduction == 'none':
        return reduce_loss(loss, reduction)
    if reduction == 'sum':
        raise ValueError("avg_factor averages: it does not go with reduction='sum'")
    # As in mmdetection: a factor of 0 must not divide.
    return loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)


def weighted_loss(loss_func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate an elementwise loss ``f(pred, target, **kwargs)``, which then weighs and reduces.

    The result is ``f(pred, target, weight=None, reduction='mean', avg_factor=None, **kwargs)``; see
    :func:`weight_reduce_loss`.
    """

    @wraps(loss_func)
    def wrapper(
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = 'mean',
        avg_factor: float | Tensor | None = None,
        **kwargs,
    ) -> Tensor:
        return weight_reduce_loss(loss_func(pred, target, **kwargs), weight, reduction, avg_factor)

    return wrapper


class WeightedLoss(nn.Module):
    """Weighs and reduces the losses beside it, as ``forward(pred, target, weight, avg_factor, reduction_override)``.

    ``weight`` is broadcast to the elementwise loss; a mean divides by ``avg_factor`` if it is given;
    ``reduction_override`` takes the place of ``reduction`` for one call. See :func:`weight_reduce_loss`.

    Args:
        reduction: 'none', 'mean' or 'sum'.
        loss_weight: factor of the result.

    Raises:
        ValueError: another reduction. Of a call AssertionError: another ``reduction_override``.
    """

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"{type(self).__name__}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
        self.reduction = reduction
        self.loss_weight = loss_weight

    def _reduction(self, override: str | None) -> str:
        assert override in (None, *REDUCTIONS), (
            f"{type(self).__name__}: reduction_override must be None, 'none', 'mean' or 'sum', got {override!r}"
        )
        return override or self.reduction

    def loss(self, pred: Tensor, target: Tensor, *weighing) -> Tensor:
        """Compute the loss, weighed and reduced by ``weight, reduction, avg_factor``."""
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compute the loss of predictions and targets of one shape, mostly (N, 4).

        Args:
            pred, target: deltas or boxes.
            weight: broadcastable to them, or None.
            avg_factor, reduction_override: see the class.

        Returns:
            A scalar, or the shape of ``pred`` with 'none'.
        """
        reduction = self._reduction(reduction_override)
        return self.loss_weight * self.loss(pred, target, weight, reduction, avg_factor)
