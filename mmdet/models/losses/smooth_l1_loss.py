"""Losses of differences."""

from torch import Tensor, where

from mmdet.registry import MODELS

from .utils import WeightedLoss, weighted_loss


@weighted_loss
def smooth_l1_loss(pred: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """Compute ``d^2 / (2 beta)`` where ``d = |pred - target| < beta``, else ``d - beta / 2`` (Girshick, Fast R-CNN).

    Args:
        pred, target: of one shape, which is the elementwise loss's as well; see :func:`.weighted_loss`.
        beta: where the parabola becomes a line.
    """
    difference = (pred - target).abs()
    return where(difference < beta, 0.5 * difference * difference / beta, difference - 0.5 * beta)


@weighted_loss
def l1_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Compute the absolute difference of predictions and targets of one shape; see :func:`.weighted_loss`."""
    return (pred - target).abs()


@MODELS.register_module()
class L1Loss(WeightedLoss):
    """Computes the absolute difference of predictions and targets; arguments as of :class:`WeightedLoss`.

    Example:
        >>> import torch
        >>> L1Loss()(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
        tensor(1.5000)
    """

    def loss(self, pred: Tensor, target: Tensor, *weighing) -> Tensor:
        """Compute :func:`l1_loss`."""
        return l1_loss(pred, target, *weighing)


@MODELS.register_module()
class SmoothL1Loss(WeightedLoss):
    """Computes :func:`smooth_l1_loss` of predictions and targets (Girshick, Fast R-CNN, ICCV 2015).

    Args:
        beta: difference at which the parabola becomes a line, greater than 0.
        reduction, loss_weight: see :class:`WeightedLoss`.

    Raises:
        ValueError: ``beta`` is not positive; another reduction.
    """

    def __init__(self, beta: float = 1.0, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        if beta <= 0:
            raise ValueError(f'SmoothL1Loss: beta must be positive, got {beta}; use L1Loss for 0')
        self.beta = beta

    def loss(self, pred: Tensor, target: Tensor, *weighing) -> Tensor:
        """Compute :func:`smooth_l1_loss`."""
        return smooth_l1_loss(pred, target, *weighing, beta=self.beta)
