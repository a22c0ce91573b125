"""Priors that the box head finds hardest."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox2roi

from ..assigners import AssignResult
from .random_sampler import BaseSampler


@TASK_UTILS.register_module()
class OHEMSampler(BaseSampler):
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
        self.loss_key = loss_key

    def _sample_pos(self, assign_result: AssignResult, num_expected: int, **kwargs) -> Tensor:
        return self._hardest(assign_result.split()[0], num_expected, assign_result, **kwargs)

    def _sample_neg(self, assign_result: AssignResult, num_expected: int, **kwargs) -> Tensor:
        return self._hardest(assign_result.split()[1], num_expected, assign_result, **kwargs)

    def _hardest(
        self, inds: Tensor, num: int, assign_result: AssignResult, bboxes: Tensor, feats: Sequence[Tensor], **kwargs
    ) -> Tensor:
        if len(inds) <= num:
            return inds
        labels = assign_result.labels[inds]
        labels = torch.where(labels < 0, self.context.bbox_head.num_classes, labels)
        return self.hard_mining(inds, num, bboxes[inds], labels, feats)

    @torch.no_grad()
    def hard_mining(
        self, inds: Tensor, num_expected: int, bboxes: Tensor, labels: Tensor, feats: Sequence[Tensor]
    ) -> Tensor:
        """Choose the priors of the highest loss.

        Args:
            inds: (M,), M > ``num_expected``.
            num_expected: how many.
            bboxes, labels: the priors' boxes (M, 4) in pixels of the network's input, and what they should answer (M,).
            feats: the image's maps, (1, C, H_i, W_i).

        Returns:
            ``num_expected`` of ``inds``.
        """
        rois = bbox2roi([bboxes])
        scores = self.context._bbox_forward(feats, rois)['cls_score']
        weights = torch.ones_like(labels, dtype=scores.dtype)
        losses = self.context.bbox_head.loss(scores, None, rois, labels, weights, None, None, reduction_override='none')
        return inds[losses[self.loss_key].view(len(labels), -1).sum(1).topk(num_expected).indices]
