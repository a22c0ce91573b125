"""Losses of classification and box regression."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmdet.registry import MODELS


def reduce_loss(loss: Tensor, weight: Tensor | None, reduction: str, avg_factor: float | Tensor | None) -> Tensor:
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


class WeightedLoss(nn.Module):
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
class L1Loss(WeightedLoss):
    """Absolute difference."""

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        return self._reduce((pred - target).abs(), weight, avg_factor, reduction_override)


@MODELS.register_module()
class SmoothL1Loss(WeightedLoss):
    """:func:`smooth_l1_loss`."""

    def __init__(self, beta: float = 1.0, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        if beta <= 0:
            raise ValueError(f'SmoothL1Loss: beta must be positive, got {beta}; use L1Loss for 0')
        self.beta = beta

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        return self._reduce(smooth_l1_loss(pred, target, self.beta), weight, avg_factor, reduction_override)


@MODELS.register_module()
class CrossEntropyLoss(WeightedLoss):
    """Softmax cross entropy; with ``use_sigmoid`` binary for each class; with ``use_mask`` for the masks of R-CNN.

    Args:
        class_weight: of each class; with ``use_sigmoid`` of its positive samples.
        ignore_index: label that does not count, by default -100; with ``use_sigmoid`` negative labels do not either.
        avg_non_ignore: a mean without ``avg_factor`` is over the labels that count instead of all.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: str = 'mean',
        class_weight: Sequence[float] | None = None,
        ignore_index: int | None = None,
        loss_weight: float = 1.0,
        avg_non_ignore: bool = False,
    ) -> None:
        super().__init__(reduction, loss_weight)
        if use_sigmoid and use_mask:
            raise ValueError('CrossEntropyLoss: use_sigmoid and use_mask exclude each other')
        if use_mask and (class_weight is not None or ignore_index is not None):
            raise ValueError(
                f'CrossEntropyLoss: use_mask knows no class_weight={class_weight} and no '
                f'ignore_index={ignore_index}; leave them out'
            )
        self.use_sigmoid = use_sigmoid
        self.use_mask = use_mask
        self.class_weight = class_weight
        self.ignore_index = -100 if ignore_index is None else ignore_index
        self.avg_non_ignore = avg_non_ignore

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            cls_score: logits, (N, C); of masks (N, C, H, W).
            label: classes (N,), C or more is background with ``use_sigmoid``; or, with ``use_sigmoid``, (N, C) of 0
                and 1; of masks (N, H, W) of 0 and 1.
            weight: (N,), or (N, C) with ``use_sigmoid``; with ``use_mask`` the classes (N,).
        """
        if self.use_mask:
            return self.mask_loss(cls_score, label, weight)
        class_weight = None if self.class_weight is None else cls_score.new_tensor(self.class_weight)
        counts = label != self.ignore_index
        if not self.use_sigmoid:
            loss = F.cross_entropy(cls_score, label, class_weight, reduction='none', ignore_index=self.ignore_index)
        else:
            counts = counts & (label >= 0)
            if label.dim() < cls_score.dim():
                label = label[:, None] == torch.arange(cls_score.shape[1], device=label.device)
                counts = counts[:, None].expand_as(label)
            if weight is not None and weight.dim() < cls_score.dim():
                weight = weight[:, None]
            loss = F.binary_cross_entropy_with_logits(
                cls_score, label.to(cls_score.dtype), pos_weight=class_weight, reduction='none'
            )
            weight = counts.to(loss.dtype) if weight is None else counts * weight
        if self.avg_non_ignore and avg_factor is None and (reduction_override or self.reduction) == 'mean':
            avg_factor = counts.sum()
        return self._reduce(loss, weight, avg_factor, reduction_override)

    def mask_loss(self, pred: Tensor, target: Tensor, labels: Tensor | None) -> Tensor:
        """Mean binary cross entropy of each object's own class's mask (He et al., Mask R-CNN, 2017).

        Args:
            pred: logits (N, C, H, W). target: (N, H, W) of 0 and 1. labels: classes (N,).

        Returns:
            (1,); 0, still connected to ``pred``, for N = 0.
        """
        if not len(pred):
            return pred.float().sum()[None]
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
