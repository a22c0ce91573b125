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
        avg_factor: what a mean divides by.

    Returns:
        ``loss``'s shape with 'none', else a scalar; 0 of no elements.

    Raises:
        ValueError: an ``avg_factor`` for a sum.
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
    """Compute ``d^2 / (2 beta)`` where ``d = |pred - target| < beta``, else ``d - beta / 2`` (Girshick, Fast R-CNN).

    Args:
        pred, target: of one shape, which is the result's as well.
        beta: where the parabola becomes a line.
    """
    difference = (pred - target).abs()
    return torch.where(difference < beta, 0.5 * difference * difference / beta, difference - 0.5 * beta)


class WeightedLoss(nn.Module):
    """Weighs and reduces the losses below, as ``forward(pred, target, weight, avg_factor, reduction_override)``.

    ``weight`` is broadcast to the elementwise loss; a mean divides by ``avg_factor`` if it is given;
    ``reduction_override`` takes the place of ``reduction`` for one call. See :func:`reduce_loss`.

    Args:
        reduction: 'none', 'mean' or 'sum'.
        loss_weight: factor of the result.

    Raises:
        ValueError: another reduction.
    """

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
    """Computes the absolute difference of predictions and targets; arguments as of :class:`WeightedLoss`.

    Example:
        >>> import torch
        >>> L1Loss()(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
        tensor(1.5000)
    """

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compute the loss of predictions and targets of one shape, mostly (N, 4).

        Args:
            pred, target: deltas or boxes.
            weight: broadcastable to them, or None.
            avg_factor, reduction_override: see :class:`WeightedLoss`.

        Returns:
            A scalar, or the shape of ``pred`` with 'none'.
        """
        return self._reduce((pred - target).abs(), weight, avg_factor, reduction_override)


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

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compute the loss of predictions and targets of one shape, mostly (N, 4); see :meth:`L1Loss.forward`."""
        return self._reduce(smooth_l1_loss(pred, target, self.beta), weight, avg_factor, reduction_override)


@MODELS.register_module()
class CrossEntropyLoss(WeightedLoss):
    """Computes cross entropy: of a softmax, of each class (``use_sigmoid``) or of R-CNN's masks (``use_mask``).

    Args:
        use_sigmoid: each class is a yes or no of its own.
        use_mask: :meth:`mask_loss`, which knows no class weights and no ignored labels.
        reduction, loss_weight: see :class:`WeightedLoss`.
        class_weight: of each class, (C,); with ``use_sigmoid`` of its positive samples.
        ignore_index: label that does not count, by default -100; with ``use_sigmoid`` negative labels do not either.
        avg_non_ignore: a mean without ``avg_factor`` is over the labels that count instead of all.

    Raises:
        ValueError: ``use_mask`` with ``use_sigmoid``, ``class_weight`` or ``ignore_index``.

    Example:
        >>> import torch
        >>> CrossEntropyLoss()(torch.zeros(2, 4), torch.tensor([0, 3]))  # the logarithm of 4
        tensor(1.3863)
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
        """Compute the loss.

        Args:
            cls_score: logits, (N, C); of masks (N, C, H, W).
            label: classes (N,), C or more is background with ``use_sigmoid``; or, with ``use_sigmoid``, (N, C) of 0 and
                1; of masks (N, H, W) of 0 and 1.
            weight: (N,), or (N, C) with ``use_sigmoid``; with ``use_mask`` the classes (N,).
            avg_factor, reduction_override: see :class:`WeightedLoss`; not used with ``use_mask``.

        Returns:
            A scalar; with 'none' (N,), or (N, C) with ``use_sigmoid``; of masks (1,).
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
        """Compute the mean binary cross entropy of each object's own class's mask (He et al., Mask R-CNN, 2017).

        Args:
            pred: logits (N, C, H, W).
            target: (N, H, W) of 0 and 1.
            labels: classes (N,).

        Returns:
            (1,); 0, still connected to ``pred``, for N = 0.
        """
        if not len(pred):
            return pred.float().sum()[None]
        own = pred[torch.arange(len(pred), device=pred.device), labels]
        return self.loss_weight * F.binary_cross_entropy_with_logits(own, target.to(own.dtype))[None]


def accuracy(pred: Tensor, target: Tensor, topk: int = 1) -> Tensor:
    """Compute the part of the samples whose class is among the ``topk`` highest scores.

    Args:
        pred: scores (N, C).
        target: classes (N,).
        topk: number of scores.

    Returns:
        (1,), in percent; 0 for N = 0.
    """
    if not len(pred):
        return pred.new_zeros(1)
    hit = pred.topk(topk, dim=1).indices == target[:, None]
    return hit.any(1).float().mean()[None] * 100
