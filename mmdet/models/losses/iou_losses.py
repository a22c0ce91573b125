"""Losses on the overlap of boxes: (N, 4) tensors of x1, y1, x2, y2."""

import math

import torch
from torch import Tensor

from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps

from .losses import WeightedLoss, smooth_l1_loss


def iou_loss(pred: Tensor, target: Tensor, mode: str = 'log', eps: float = 1e-6) -> Tensor:
    """``1 - u`` ('linear'), ``1 - u^2`` ('square') or ``-ln u`` ('log') of u = IoU, at least ``eps``; (N,)."""
    overlap = bbox_overlaps(pred, target, is_aligned=True).clamp(min=eps)
    return {'linear': lambda: 1 - overlap, 'square': lambda: 1 - overlap**2, 'log': lambda: -overlap.log()}[mode]()


def giou_loss(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """1 - GIoU (Rezatofighi et al., Generalized Intersection over Union, CVPR 2019); (N,)."""
    return 1 - bbox_overlaps(pred, target, mode='giou', is_aligned=True, eps=eps)


def _iou_and_distance(pred: Tensor, target: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """IoU (N,), and the centres' squared distance over that of the common hull's corners (N,)."""
    size, target_size = pred[:, 2:] - pred[:, :2], target[:, 2:] - target[:, :2]
    inner = (torch.minimum(pred[:, 2:], target[:, 2:]) - torch.maximum(pred[:, :2], target[:, :2])).clamp(min=0)
    inner = inner[:, 0] * inner[:, 1]
    union = size[:, 0] * size[:, 1] + target_size[:, 0] * target_size[:, 1] - inner + eps
    hull = (torch.maximum(pred[:, 2:], target[:, 2:]) - torch.minimum(pred[:, :2], target[:, :2])).clamp(min=0)
    shift = (target[:, :2] + target[:, 2:] - (pred[:, :2] + pred[:, 2:])) / 2
    return inner / union, (shift**2).sum(1) / ((hull**2).sum(1) + eps)


def diou_loss(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """1 - DIoU (Zheng et al., Distance-IoU Loss, AAAI 2020); (N,)."""
    overlap, distance = _iou_and_distance(pred, target, eps)
    return 1 - (overlap - distance)


def ciou_loss(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """1 - CIoU (Zheng et al., Distance-IoU Loss, AAAI 2020); (N,).

    The weight of the aspect ratios' difference has no gradient and is 0 for an IoU of 0.5 or less.
    """
    overlap, distance = _iou_and_distance(pred, target, eps)

    def angle(boxes):
        return torch.atan((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1] + eps))

    aspect = 4 / math.pi**2 * (angle(target) - angle(pred)) ** 2
    with torch.no_grad():
        alpha = ((overlap > 0.5) * aspect / (1 - overlap + aspect)).nan_to_num(0)  # 0 / 0: equal boxes
    return 1 - (overlap - distance - alpha * aspect).clamp(-1, 1)


def bounded_iou_loss(pred: Tensor, target: Tensor, beta: float = 0.2, eps: float = 1e-3) -> Tensor:
    """Smooth L1 of 1 - the best IoU that each of x, y, w, h allows (Tychsen-Smith and Petersson, CVPR 2018).

    The target is held fixed.

    Returns:
        (N, 4).
    """
    target = target.detach()
    size, target_size = pred[:, 2:] - pred[:, :2], target[:, 2:] - target[:, :2]
    shift = (target[:, :2] + target[:, 2:] - (pred[:, :2] + pred[:, 2:])).abs() / 2
    centre = ((target_size - 2 * shift) / (target_size + 2 * shift + eps)).clamp(min=0)
    extent = torch.minimum(target_size / (size + eps), size / (target_size + eps))
    loss = 1 - torch.cat([centre, extent], 1)
    return smooth_l1_loss(loss, torch.zeros_like(loss), beta)


class _BoxLoss(WeightedLoss):
    """A loss of each box: of weights for its four numbers, as deltas have them, the mean counts."""

    def __init__(self, eps: float = 1e-6, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.eps = eps

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss of boxes (N, 4) against boxes (N, 4); ``weight`` (N,), or (N, 4) of which the mean counts."""
        if weight is not None and not weight.any() and (reduction_override or self.reduction) != 'none':
            # Boxes of no weight may have no area: their gradient is not asked for.
            return (pred * (weight if weight.dim() > 1 else weight[:, None])).sum()
        if weight is not None and weight.dim() > 1:
            weight = weight.mean(-1)
        return self._reduce(self.loss(pred, target), weight, avg_factor, reduction_override)


@MODELS.register_module()
class IoULoss(_BoxLoss):
    """:func:`iou_loss` (Yu et al., UnitBox, 2016).

    Args:
        mode: 'linear', 'square' or 'log'; ``linear=True`` is the old name of the first.
    """

    def __init__(
        self,
        linear: bool = False,
        eps: float = 1e-6,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        mode: str = 'log',
    ) -> None:
        super().__init__(eps, reduction, loss_weight)
        if mode not in ('linear', 'square', 'log'):
            raise ValueError(f"IoULoss: mode must be 'linear', 'square' or 'log', got {mode!r}")
        self.mode = 'linear' if linear else mode

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return iou_loss(pred, target, self.mode, self.eps)


@MODELS.register_module()
class GIoULoss(_BoxLoss):
    """:func:`giou_loss`."""

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return giou_loss(pred, target, self.eps)


@MODELS.register_module()
class DIoULoss(_BoxLoss):
    """:func:`diou_loss`."""

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return diou_loss(pred, target, self.eps)


@MODELS.register_module()
class CIoULoss(_BoxLoss):
    """:func:`ciou_loss`."""

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return ciou_loss(pred, target, self.eps)


@MODELS.register_module()
class BoundedIoULoss(WeightedLoss):
    """:func:`bounded_iou_loss`; ``beta`` of the smooth L1."""

    def __init__(self, beta: float = 0.2, eps: float = 1e-3, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.beta = beta
        self.eps = eps

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss of boxes (N, 4) against boxes (N, 4); ``weight`` (N, 4), or (N,) for all four numbers of a box."""
        if weight is not None and weight.dim() == 1:
            weight = weight[:, None]
        return self._reduce(bounded_iou_loss(pred, target, self.beta, self.eps), weight, avg_factor, reduction_override)
