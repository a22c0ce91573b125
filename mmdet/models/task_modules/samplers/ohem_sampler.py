"""Priors that the box head finds hardest."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox2roi

from .random_sampler import BoundedSampler


@TASK_UTILS.register_module()
class OHEMSampler(BoundedSampler):
    """Samples the priors of the highest classification loss (Shrivastava et al., OHEM, CVPR 2016).

    The box head looks at them without gradients, in training mode: its BN's running statistics count this pass too, as
    in mmdetection. A synchronized norm in the box head may wait forever: the pass is not made on every process.

    Args:
        num, pos_fraction, neg_pos_ub, add_gt_as_proposals: as of :class:`.RandomSampler`.
        context: the RoI head, which the config does not name.
        loss_key: 'loss_cls'.

    Raises:
        ValueError: another loss, or a ``context`` without a box head.

    Example:
        In ``train_cfg.rcnn``::

            sampler=dict(type='OHEMSampler', num=512, pos_fraction=0.25)
    """

    def __init__(
        self,
        num: int,
        pos_fraction: float,
        context: Any,
        neg_pos_ub: float = -1,
        add_gt_as_proposals: bool = True,
        loss_key: str = 'loss_cls',
    ) -> None:
        super().__init__(num, pos_fraction, neg_pos_ub, add_gt_as_proposals)
        if loss_key != 'loss_cls':
            raise ValueError(f"OHEMSampler: loss_key must be 'loss_cls', the loss of every prior, got {loss_key!r}")
        if not hasattr(context, 'bbox_head'):
            raise ValueError(f'OHEMSampler: {type(context).__name__} has no box head to mine with; use RandomSampler')
        self.context = context

    @torch.no_grad()
    def _choose(  # type: ignore[override]  # the RoI head, which alone has this sampler, gives the maps
        self, gallery: Tensor, num: int, priors: Tensor, labels: Tensor, feats: Sequence[Tensor]
    ) -> Tensor:
        """``feats``: the image's maps, (1, C, H_i, W_i)."""
        head = self.context.bbox_head
        scores, _ = self.context._bbox_forward(feats, bbox2roi([priors[gallery]]))
        labels = labels[gallery]
        labels = torch.where(labels < 0, head.num_classes, labels)
        loss = head.loss_cls(scores, labels, reduction_override='none').view(len(labels), -1).sum(1)
        return gallery[loss.topk(num).indices]
