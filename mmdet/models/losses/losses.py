"""Losses of classification and box regression."""
from typing import Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmdet.registry import MODELS


def reduce_loss(loss: Tensor, weight: Optional[Tensor], reduction: str, avg_factor: Optional[float]) -> Tensor:
    """Weigh and reduce an elementwise loss.

    Args:
        loss: any shape.
        weight: broadcastable to it, or None.
        reduction: 'none', 'sum' or 'mean'; a mean divides by ``avg_factor``, by default by the number of elements.
    """
    if weight is not None:
        loss = loss * weight
    if reduction == 'none':
        return loss
    if avg_factor is None:
        return loss.mean() if reduction == 'mean' and loss.numel() else loss.sum()
    if reduction == 'sum':
        raise ValueError("avg_factor averages: it does not go with reduction='sum'")
    # As in mmdetection: a factor of 0 must not divide.
    return loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)


def smooth_l1_loss(pred: Tensor, target: Tensor, beta: float) -> Tensor:
    """``d^2 / (2 beta)`` where ``d = |pred - target| < beta``, ``d - beta / 2`` elsewhere (Girshick, Fast R-CNN)."""
    difference = (pred - target).abs()
    return torch.where(difference < beta, 0.5 * difference * difference / beta, difference - 0.5 * beta)


class _Loss(nn.Module):
    """Reduction and weight of the losses below; ``forward(pred, target, weight, avg_factor, reduction_override)``."""

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        if reduction not in ('none', 'mean', 'sum'):
            raise ValueError(f"{type(self).__name__}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
        self.reduction = reduction
        self.loss_weight = loss_weight

    def _reduce(self, loss, weight, avg_factor, reduction_override):
        return self.loss_weight * reduce_loss(loss, weight, reduction_override or self.reduction, avg_factor)


@MODELS.register_module()
class L1Loss(_Loss):
    """Absolute difference."""

    def forward(self, pred: Tensor, target: Tensor, weight: Optional[Tensor] = None,
                avg_factor: Optional[float] = None, reduction_override: Optional[str] = None) -> Tensor:
        return self._reduce((pred - target).abs(), weight, avg_factor, reduction_override)


@MODELS.register_module()
class SmoothL1Loss(_Loss):
    """:func:`smooth_l1_loss`."""

    def __init__(self, beta: float = 1.0, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        if beta <= 0:
            raise ValueError(f'SmoothL1Loss: beta must be positive, got {beta}; use L1Loss for 0')
        self.beta = beta

    def forward(self, pred: Tensor, target: Tensor, weight: Optional[Tensor] = None,
                avg_factor: Optional[float] = None, reduction_override: Optional[str] = None) -> Tensor:
        return self._reduce(smooth_l1_loss(pred, target, self.beta), weight, avg_factor, reduction_override)


@MODELS.register_module()
class CrossEntropyLoss(_Loss):
    """Softmax cross entropy; with ``use_sigmoid`` binary for each class; with ``use_mask`` for the masks of R-CNN.

    Args:
        class_weight: of each class.
    """

    def __init__(self, use_sigmoid: bool = False, use_mask: bool = False, reduction: str = 'mean',
                 class_weight: Optional[Sequence[float]] = None, loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        if use_sigmoid and use_mask:
            raise ValueError('CrossEntropyLoss: use_sigmoid and use_mask exclude each other')
        self.use_sigmoid = use_sigmoid
        self.use_mask = use_mask
        self.class_weight = class_weight

    def forward(self, pred: Tensor, target: Tensor, weight: Optional[Tensor] = None,
                avg_factor: Optional[float] = None, reduction_override: Optional[str] = None) -> Tensor:
        """The loss.

        Args:
            pred: logits, (N, C); of masks (N, C, H, W).
            target: classes (N,), C or more is background with ``use_sigmoid``; or, with ``use_sigmoid``, (N, C) of 0
                and 1; of masks (N, H, W) of 0 and 1.
            weight: (N,), or (N, C) with ``use_sigmoid``; with ``use_mask`` the classes (N,).
        """
        if self.use_mask:
            return self.mask_loss(pred, target, weight)
        class_weight = None if self.class_weight is None else pred.new_tensor(self.class_weight)
        if not self.use_sigmoid:
            loss = F.cross_entropy(pred, target, class_weight, reduction='none')
            return self._reduce(loss, weight, avg_factor, reduction_override)
        if target.dim() == 1 and pred.dim() == 2:
            if weight is not None and weight.dim() == 1:
                weight = weight[:, None]
            classes = torch.arange(pred.shape[1], device=pred.device)
            target = (target[:, None] == classes)
        loss = F.binary_cross_entropy_with_logits(pred, target.to(pred.dtype), pos_weight=class_weight,
                                                  reduction='none')
        return self._reduce(loss, weight, avg_factor, reduction_override)

    def mask_loss(self, pred: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross entropy of each object's own class's mask (He et al., Mask R-CNN, 2017).

        Args:
            pred: logits (N, C, H, W). target: (N, H, W) of 0 and 1. labels: classes (N,).

        Returns:
            (1,); 0, still connected to ``pred``, for N = 0.
        """
        if not len(pred):
            return pred.sum()[None]
        own = pred[torch.arange(len(pred), device=pred.device), labels]
        return self.loss_weight * F.binary_cross_entropy_with_logits(own, target.to(own.dtype))[None]


def accuracy(pred: Tensor, target: Tensor, topk: int = 1) -> Tensor:
    """Part of the samples whose class is among the ``topk`` highest scores, in percent, (1,).

    Args:
        pred: scores (N, C). target: classes (N,).
    """
    if not len(pred):
        return pred.new_zeros(1)
    hit = pred.topk(topk, dim=1).indices == target[:, None]
    return hit.any(1).float().mean()[None] * 100
