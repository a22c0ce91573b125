"""Cross entropy of classes and of masks."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmdet.registry import MODELS

from .utils import WeightedLoss, weight_reduce_loss


def cross_entropy(
    pred: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    reduction: str = 'mean',
    avg_factor: float | Tensor | None = None,
    class_weight: Tensor | None = None,
    ignore_index: int | None = -100,
    avg_non_ignore: bool = False,
) -> Tensor:
    """Compute the cross entropy of a softmax.

    Args:
        pred: logits (N, C).
        label: classes (N,).
        weight: (N,), or None.
        reduction, avg_factor: see :func:`.weight_reduce_loss`.
        class_weight: of each class, (C,).
        ignore_index: label that does not count, by default -100.
        avg_non_ignore: a mean without ``avg_factor`` is over the labels that count instead of all.

    Returns:
        A scalar; with 'none' (N,).
    """
    ignore_index = -100 if ignore_index is None else ignore_index
    loss = F.cross_entropy(pred, label, class_weight, reduction='none', ignore_index=ignore_index)
    if avg_non_ignore and avg_factor is None and reduction == 'mean':
        avg_factor = (label != ignore_index).sum()
    return weight_reduce_loss(loss, weight, reduction, avg_factor)


def binary_cross_entropy(
    pred: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    reduction: str = 'mean',
    avg_factor: float | Tensor | None = None,
    class_weight: Tensor | None = None,
    ignore_index: int | None = -100,
    avg_non_ignore: bool = False,
) -> Tensor:
    """Compute the cross entropy of a sigmoid, each class a yes or no of its own.

    Args:
        pred: logits (N, C).
        label: classes (N,), of which C or more is background, or (N, C) of 0 and 1; negative ones do not count.
        weight: (N,) or (N, C), or None.
        reduction, avg_factor, ignore_index, avg_non_ignore: as of :func:`cross_entropy`.
        class_weight: of the positive samples of each class, (C,).

    Returns:
        A scalar; with 'none' (N, C).
    """
    counts = (label != (-100 if ignore_index is None else ignore_index)) & (label >= 0)
    if label.dim() < pred.dim():
        label = label[:, None] == torch.arange(pred.shape[1], device=label.device)
        counts = counts[:, None].expand_as(label)
    if weight is not None and weight.dim() < pred.dim():
        weight = weight[:, None]
    loss = F.binary_cross_entropy_with_logits(pred, label.to(pred.dtype), pos_weight=class_weight, reduction='none')
    weight = counts.to(loss.dtype) if weight is None else counts * weight
    if avg_non_ignore and avg_factor is None and reduction == 'mean':
        avg_factor = counts.sum()
    return weight_reduce_loss(loss, weight, reduction, avg_factor)


def mask_cross_entropy(pred: Tensor, target: Tensor, label: Tensor) -> Tensor:
    """Compute the mean binary cross entropy of each object's own class's mask (He et al., Mask R-CNN, 2017).

    Args:
        pred: logits (N, C, H, W).
        target: (N, H, W) of 0 and 1.
        label: classes (N,).

    Returns:
        (1,); 0, still connected to ``pred``, for N = 0.
    """
    if not len(pred):
        return pred.float().sum()[None]
    own = pred[torch.arange(len(pred), device=pred.device), label]
    return F.binary_cross_entropy_with_logits(own, target.to(own.dtype))[None]


@MODELS.register_module()
class CrossEntropyLoss(WeightedLoss):
    """Computes cross entropy: of a softmax, of each class (``use_sigmoid``) or of R-CNN's masks (``use_mask``).

    Args:
        use_sigmoid: each class is a yes or no of its own.
        use_mask: :func:`mask_cross_entropy`, which knows no class weights and no ignored labels.
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
        self.ignore_index = ignore_index
        self.avg_non_ignore = avg_non_ignore

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        ignore_index: int | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            cls_score: logits, (N, C); of masks (N, C, H, W).
            label: classes (N,), C or more is background with ``use_sigmoid``; or, with ``use_sigmoid``, (N, C) of 0 and
                1; of masks (N, H, W) of 0 and 1.
            weight: (N,), or (N, C) with ``use_sigmoid``; with ``use_mask`` the classes (N,).
            avg_factor, reduction_override: see :class:`WeightedLoss`; not used with ``use_mask``.
            ignore_index: in place of the loss's own for this call.

        Returns:
            A scalar; with 'none' (N,), or (N, C) with ``use_sigmoid``; of masks (1,).
        """
        reduction = self._reduction(reduction_override)
        if self.use_mask:
            assert weight is not None, 'CrossEntropyLoss: use_mask needs the classes as weight'
            return self.loss_weight * mask_cross_entropy(cls_score, label, weight)
        return self.loss_weight * (binary_cross_entropy if self.use_sigmoid else cross_entropy)(
            cls_score,
            label,
            weight,
            reduction,
            avg_factor,
            class_weight=None if self.class_weight is None else cls_score.new_tensor(self.class_weight),
            ignore_index=self.ignore_index if ignore_index is None else ignore_index,
            avg_non_ignore=self.avg_non_ignore,
        )
