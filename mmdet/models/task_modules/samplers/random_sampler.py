"""Which priors of an image the loss looks at."""

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet.registry import TASK_UTILS

from ..assigners import AssignResult


@dataclass
class SamplingResult:
    """Holds P positive and Q negative priors of an image.

    Indices count the objects first, where they are priors too, and then the priors.
    """

    pos_inds: Tensor  # (P,)
    neg_inds: Tensor  # (Q,)
    pos_priors: Tensor  # (P, 4)
    neg_priors: Tensor  # (Q, 4)
    pos_assigned_gt_inds: Tensor  # (P,) index of the object, from 0
    pos_gt_bboxes: Tensor  # (P, 4)
    pos_gt_labels: Tensor  # (P,)
    pos_is_gt: Tensor  # (P,) bool: the prior is the object itself
    avg_factor_with_neg: bool = True

    @property
    def priors(self) -> Tensor:
        """Return all sampled priors (P + Q, 4), positives first."""
        return torch.cat([self.pos_priors, self.neg_priors])

    @property
    def avg_factor(self) -> int:
        """Return the number of samples, each kind counted as at least one (as in mmdetection)."""
        return max(len(self.pos_inds), 1) + (max(len(self.neg_inds), 1) if self.avg_factor_with_neg else 0)


class BoundedSampler:
    """Chooses a number of priors, a bounded part of them positive; subclasses choose among too many.

    Args:
        num: priors an image.
        pos_fraction: largest part of positives; negatives fill up.
        neg_pos_ub: largest number of negatives for each positive; negative: no bound.
        add_gt_as_proposals: the objects themselves are priors too.

    Raises:
        ValueError: no priors, or a part that is not from 0 to 1.
    """

    def __init__(self, num: int, pos_fraction: float, neg_pos_ub: float = -1, add_gt_as_proposals: bool = True) -> None:
        if num < 1:
            raise ValueError(f'{type(self).__name__}: num must be 1 or more, got {num}; there is nothing to learn from')
        if not 0 <= pos_fraction <= 1:
            raise ValueError(f'{type(self).__name__}: pos_fraction must be from 0 to 1, got {pos_fraction}')
        self.num = num
        self.pos_fraction = pos_fraction
        self.neg_pos_ub = neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals

    def _choose(self, gallery: Tensor, num: int, priors: Tensor, labels: Tensor, **kwargs) -> Tensor:
        """``num`` of the indices in ``gallery`` (M,), M > num, of ``priors`` (N, 4) with ``labels`` (N,), -1: none."""
        raise NotImplementedError

    def sample(
        self, assign_result: AssignResult, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs
    ) -> SamplingResult:
        """Sample from an image's priors.

        Args:
            assign_result: of the priors.
            pred_instances: ``priors`` (N, 4).
            gt_instances: ``bboxes`` (K, 4) and ``labels`` (K,), which the priors were assigned to.
            kwargs: what a subclass needs to choose, for instance ``feats``, the image's maps.

        Returns:
            At most ``num`` priors; fewer where there are not enough of a kind.
        """
        priors, boxes, labels = pred_instances.priors, gt_instances.bboxes, gt_instances.labels
        num_own = 0
        if self.add_gt_as_proposals and len(boxes):
            num_own = len(boxes)
            priors = torch.cat([boxes.to(priors.dtype), priors])
            assign_result = assign_result.prepend_gts(labels)

        def choose(gallery: Tensor, num: int) -> Tensor:
            if len(gallery) <= num:
                return gallery
            return self._choose(gallery, num, priors, assign_result.labels, **kwargs).sort().values

        positive, negative = assign_result.split()
        positive = choose(positive, int(self.num * self.pos_fraction))
        wanted = self.num - len(positive)
        if self.neg_pos_ub >= 0:
            wanted = min(wanted, int(self.neg_pos_ub * max(len(positive), 1)))
        negative = choose(negative, wanted)
        assigned = assign_result.gt_inds[positive] - 1
        return SamplingResult(
            positive,
            negative,
            priors[positive],
            priors[negative],
            assigned,
            boxes.reshape(-1, 4)[assigned],
            assign_result.labels[positive],
            positive < num_own,
        )


@TASK_UTILS.register_module()
class RandomSampler(BoundedSampler):
    """Samples random priors, a bounded part of them positive.

    The numbers are drawn on the CPU, so that a seed gives the same samples on every device.

    Args:
        num: priors an image.
        pos_fraction: largest part of positives; negatives fill up.
        neg_pos_ub: largest number of negatives for each positive; negative: no bound.
        add_gt_as_proposals: the objects themselves are priors too.
        context: every sampler is given the head that it samples for; chance does not need it.

    Example:
        In ``train_cfg.rcnn``: 512 regions of each image, at most 128 of them on objects::

            sampler=dict(type='RandomSampler', num=512, pos_fraction=0.25)
    """

    def __init__(
        self,
        num: int,
        pos_fraction: float,
        neg_pos_ub: float = -1,
        add_gt_as_proposals: bool = True,
        context: Any = None,
    ) -> None:
        super().__init__(num, pos_fraction, neg_pos_ub, add_gt_as_proposals)

    def random_choice(self, gallery: Tensor, num: int) -> Tensor:
        """Draw ``num`` elements of ``gallery`` (M,), M >= num, in any order: (num,)."""
        # Drawn on the CPU: the same samples on every device.
        return gallery[torch.randperm(len(gallery))[:num].to(gallery.device, non_blocking=True)]

    def _choose(self, gallery: Tensor, num: int, priors: Tensor, labels: Tensor, **kwargs) -> Tensor:
        return self.random_choice(gallery, num)


@TASK_UTILS.register_module()
class PseudoSampler:
    """Takes all priors that are positive or negative; averages count the positives only.

    Args:
        context: the head that it samples for, which it does not need.
    """

    def __init__(self, context: Any = None) -> None:
        pass

    def sample(
        self, assign_result: AssignResult, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs
    ) -> SamplingResult:
        """Take all priors that are not ignored.

        Args:
            assign_result: of the priors.
            pred_instances: ``priors`` (N, 4).
            gt_instances: ``bboxes`` (K, 4) and ``labels`` (K,).

        Returns:
            All positive and negative priors; no object is added to them.
        """
        priors = pred_instances.priors
        positive, negative = assign_result.split()
        assigned = assign_result.gt_inds[positive] - 1
        return SamplingResult(
            positive,
            negative,
            priors[positive],
            priors[negative],
            assigned,
            gt_instances.bboxes.reshape(-1, 4)[assigned],
            assign_result.labels[positive],
            torch.zeros_like(positive, dtype=torch.bool),
            avg_factor_with_neg=False,
        )
