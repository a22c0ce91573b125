"""Losses on the overlap of boxes: (N, 4) tensors of x1, y1, x2, y2."""

import math

import torch
from torch import Tensor

from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps

from .smooth_l1_loss import smooth_l1_loss
from .utils import WeightedLoss, weighted_loss


@weighted_loss
def iou_loss(pred: Tensor, target: Tensor, linear: bool = False, mode: str = 'log', eps: float = 1e-6) -> Tensor:
    """Compute ``1 - u`` ('linear'), ``1 - u^2`` ('square') or ``-ln u`` ('log') of u = IoU, at least ``eps``.

    Args:
        pred, target: boxes (N, 4), paired; both in the same unit.
        linear: the old name of ``mode='linear'``.
        mode: 'linear', 'square' or 'log'.
        eps: least u.

    Returns:
        (N,), weighed and reduced, see :func:`.weighted_loss`.
    """
    mode = 'linear' if linear else mode
    overlap = bbox_overlaps(pred, target, is_aligned=True).clamp(min=eps)
    return {'linear': lambda: 1 - overlap, 'square': lambda: 1 - overlap**2, 'log': lambda: -overlap.log()}[mode]()


@weighted_loss
def giou_loss(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute 1 - GIoU of boxes (N, 4) paired with boxes (N, 4), (N,) (Rezatofighi et al., CVPR 2019).

    It has a gradient also where boxes do not overlap. ``eps`` is the least denominator.
    """
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


@weighted_loss
def diou_loss(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute 1 - DIoU of boxes (N, 4) paired with boxes (N, 4), (N,) (Zheng et al., Distance-IoU Loss, AAAI 2020).

    DIoU is IoU less the squared distance of the centres over that of the common hull's corners.
    """
    overlap, distance = _iou_and_distance(pred, target, eps)
    return 1 - (overlap - distance)


@weighted_loss
def ciou_loss(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute 1 - CIoU of boxes (N, 4) paired with boxes (N, 4), (N,) (Zheng et al., Distance-IoU Loss, AAAI 2020).

    CIoU is DIoU less a term for the difference of the aspect ratios, whose weight has no gradient and is 0 for an IoU
    of 0.5 or less.
    """
    overlap, distance = _iou_and_distance(pred, target, eps)

    def angle(boxes):
        return torch.atan((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1] + eps))

    aspect = 4 / math.pi**2 * (angle(target) - angle(pred)) ** 2
    with torch.no_grad():
        alpha = ((overlap > 0.5) * aspect / (1 - overlap + aspect)).nan_to_num(0)  # 0 / 0: equal boxes
    return 1 - (overlap - distance - alpha * aspect).clamp(-1, 1)


@weighted_loss
def bounded_iou_loss(pred: Tensor, target: Tensor, beta: float = 0.2, eps: float = 1e-3) -> Tensor:
    """Compute smooth L1 of 1 - the best IoU that each of x, y, w, h allows (Tychsen-Smith and Petersson, CVPR 2018).

    Args:
        pred, target: boxes (N, 4), paired; the target is held fixed.
        beta: of :func:`smooth_l1_loss`.
        eps: added to denominators.

    Returns:
        (N, 4), for centre x, centre y, width and height.
    """
    target = target.detach()
    size, target_size = pred[:, 2:] - pred[:, :2], target[:, 2:] - target[:, :2]
    shift = (target[:, :2] + target[:, 2:] - (pred[:, :2] + pred[:, 2:])).abs() / 2
    centre = ((target_size - 2 * shift) / (target_size + 2 * shift + eps)).clamp(min=0)
    extent = torch.minimum(target_size / (size + eps), size / (target_size + eps))
    loss = 1 - torch.cat([centre, extent], 1)
    return smooth_l1_loss(loss, torch.zeros_like(loss), beta=beta, reduction='none')


class _BoxLoss(WeightedLoss):
    """A loss of each box: of weights for its four numbers, as deltas have them, the mean counts."""

    def __init__(self, eps: float = 1e-6, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.eps = eps

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss of boxes (N, 4) against boxes (N, 4); ``weight`` (N,), or (N, 4) of which the mean counts."""
        reduction = self._reduction(reduction_override)
        if weight is not None and not weight.any() and reduction != 'none':
            # Boxes of no weight may have no area: their gradient is not asked for.
            return (pred * (weight if weight.dim() > 1 else weight[:, None])).sum()
        if weight is not None and weight.dim() > 1:
            weight = weight.mean(-1)
        return self.loss_weight * self.loss(pred, target, weight, reduction, avg_factor)


@MODELS.register_module()
class IoULoss(_BoxLoss):
    """Computes :func:`iou_loss` of paired boxes, weighted and averaged (Yu et al., UnitBox, 2016).

    Used as ``loss_bbox`` a head needs ``reg_decoded_bbox=True``, as all losses of overlap do.

    Args:
        linear: the old name of ``mode='linear'``.
        eps: least IoU.
        reduction, loss_weight: see :class:`.WeightedLoss`.
        mode: 'linear', 'square' or 'log'.

    Raises:
        ValueError: another mode or reduction.
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

    def loss(self, pred: Tensor, target: Tensor, *weighing) -> Tensor:
        """Compute :func:`iou_loss` of each pair of boxes (N, 4)."""
        return iou_loss(pred, target, *weighing, mode=self.mode, eps=self.eps)


@MODELS.register_module()
class GIoULoss(_BoxLoss):
    """Computes :func:`giou_loss` of paired boxes, weighted and averaged (Rezatofighi et al., CVPR 2019).

    Args:
        eps: least denominator.
        reduction, loss_weight: see :class:`.WeightedLoss`.

    Example:
        In a config; boxes are compared, not deltas::

            bbox_head=dict(
                type='Shared2FCBBoxHead', reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss', loss_weight=10.0)
            )
    """

    def loss(self, pred: Tensor, target: Tensor, *weighing) -> Tensor:
        """Compute :func:`giou_loss` of each pair of boxes (N, 4)."""
        return giou_loss(pred, target, *weighing, eps=self.eps)


@MODELS.register_module()
class DIoULoss(_BoxLoss):
    """Computes :func:`diou_loss` of paired boxes, weighted and averaged (Zheng et al., AAAI 2020).

    Args:
        eps: added to denominators.
        reduction, loss_weight: see :class:`.WeightedLoss`.
    """

    def loss(self, pred: Tensor, target: Tensor, *weighing) -> Tensor:
        """Compute :func:`diou_loss` of each pair of boxes (N, 4)."""
        return diou_loss(pred, target, *weighing, eps=self.eps)


@MODELS.register_module()
class CIoULoss(_BoxLoss):
    """Computes :func:`ciou_loss` of paired boxes, weighted and averaged (Zheng et al., AAAI 2020).

    Args:
        eps: added to denominators.
        reduction, loss_weight: see :class:`.WeightedLoss`.
    """

    def loss(self, pred: Tensor, target: Tensor, *weighing) -> Tensor:
        """Compute :func:`ciou_loss` of each pair of boxes (N, 4)."""
        return ciou_loss(pred, target, *weighing, eps=self.eps)


@MODELS.register_module()
class BoundedIoULoss(WeightedLoss):
    """Computes :func:`bounded_iou_loss` of paired boxes, weighted and averaged.

    Args:
        beta: of the smooth L1.
        eps: added to denominators.
        reduction, loss_weight: see :class:`.WeightedLoss`.
    """

    def __init__(self, beta: float = 0.2, eps: float = 1e-3, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.beta = beta
        self.eps = eps

    def loss(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, *weighing) -> Tensor:
        """Compute :func:`bounded_iou_loss` of each pair of boxes (N, 4); a weight (N,) is that of all four numbers."""
        if weight is not None and weight.dim() == 1:
            weight = weight[:, None]
        return bounded_iou_loss(pred, target, weight, *weighing, beta=self.beta, eps=self.eps)
