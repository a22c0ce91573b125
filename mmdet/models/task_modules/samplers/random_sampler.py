"""Which priors of an image the loss looks at."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet.registry import TASK_UTILS

from ..assigners import AssignResult


class SamplingResult:
    """Holds P positive and Q negative priors of an image.

    Indices count the objects first, where they are priors too, and then the priors. Attributes are, besides the
    arguments ``pos_inds`` and ``neg_inds``, ``pos_priors`` (P, 4), ``neg_priors`` (Q, 4), ``pos_is_gt`` (P,) bool (the
    prior is the object itself), ``pos_assigned_gt_inds`` (P,) (index of the object, from 0), ``pos_gt_bboxes`` (P, 4),
    ``pos_gt_labels`` (P,), and the numbers ``num_gts``, ``num_pos``, ``num_neg`` and ``avg_factor``, of samples, each
    kind counted as at least one (as in mmdetection).

    Args:
        pos_inds, neg_inds: of the positive (P,) and negative (Q,) of the priors.
        priors: (N, 4), all of the image.
        gt_bboxes: the objects (K, 4).
        assign_result: of the priors.
        gt_flags: (N,) bool or 0 and 1, whether a prior is an object itself.
        avg_factor_with_neg: the negatives count in ``avg_factor``.
    """

    def __init__(
        self,
        pos_inds: Tensor,
        neg_inds: Tensor,
        priors: Tensor,
        gt_bboxes: Tensor,
        assign_result: AssignResult,
        gt_flags: Tensor,
        avg_factor_with_neg: bool = True,
    ) -> None:
        self.pos_inds, self.neg_inds = pos_inds, neg_inds
        self.num_pos, self.num_neg = max(len(pos_inds), 1), max(len(neg_inds), 1)
        self.avg_factor = self.num_pos + (self.num_neg if avg_factor_with_neg else 0)
        self.pos_priors, self.neg_priors = priors[pos_inds], priors[neg_inds]
        self.pos_is_gt = gt_flags[pos_inds]
        self.num_gts = len(gt_bboxes)
        self.pos_assigned_gt_inds = assign_result.gt_inds[pos_inds] - 1
        self.pos_gt_bboxes = gt_bboxes.reshape(-1, 4)[self.pos_assigned_gt_inds]
        self.pos_gt_labels = assign_result.labels[pos_inds]

    @property
    def priors(self) -> Tensor:
        """Return all sampled priors (P + Q, 4), positives first."""
        return torch.cat([self.pos_priors, self.neg_priors])

    def to(self, device: str | torch.device) -> 'SamplingResult':
        """Move the tensors to a device, and return the same object."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def __repr__(self) -> str:
        return f'{type(self).__name__}({len(self.pos_inds)} positive, {len(self.neg_inds)} negative)'

    @classmethod
    def random(cls, rng: Any = None, **kwargs) -> 'SamplingResult':
        """Make one up, for tests: priors that are assigned and sampled at random.

        Args:
            rng: a seed, or what :func:`numpy.random.default_rng` takes.
            kwargs: ``num_preds`` and ``num_gts``, numbers of priors and objects; by default up to 20 and 8.
        """
        rng = np.random.default_rng(rng)
        num_preds = kwargs.get('num_preds', int(rng.integers(1, 21)))
        num_gts = kwargs.get('num_gts', int(rng.integers(0, 9)))

        def boxes(number: int) -> Tensor:
            corner = rng.random((number, 2))
            return torch.from_numpy(np.concatenate([corner, corner + rng.random((number, 2))], 1)).float()

        assigned = AssignResult.random(rng, num_preds, num_gts)
        objects = InstanceData(bboxes=boxes(num_gts), labels=torch.from_numpy(rng.integers(0, 20, num_gts)))
        return RandomSampler(num=32, pos_fraction=0.5).sample(assigned, InstanceData(priors=boxes(num_preds)), objects)


class BaseSampler:
    """Chooses a number of priors, a bounded part of them positive; subclasses choose them.

    Args:
        num: priors an image.
        pos_fraction: largest part of positives; negatives fill up.
        neg_pos_ub: largest number of negatives for each positive; negative: no bound.
        add_gt_as_proposals: the objects themselves are priors too.
        kwargs: ``context``, the head that is sampled for, which every sampler is given.

    Raises:
        ValueError: no priors, or a part that is not from 0 to 1.
    """

    def __init__(
        self, num: int, pos_fraction: float, neg_pos_ub: float = -1, add_gt_as_proposals: bool = True, **kwargs
    ) -> None:
        if num < 1:
            raise ValueError(f'{type(self).__name__}: num must be 1 or more, got {num}; there is nothing to learn from')
        if not 0 <= pos_fraction <= 1:
            raise ValueError(f'{type(self).__name__}: pos_fraction must be from 0 to 1, got {pos_fraction}')
        self.num = num
        self.pos_fraction = pos_fraction
        self.neg_pos_ub = neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals
        # Those chosen here are different ones; to look for equal ones would read back from a GPU.
        own = (getattr(type(self), name, None) for name in ('_sample_pos', '_sample_neg', 'random_choice'))
        self._different = all(getattr(one, '__module__', 'mmdet.').startswith('mmdet.') for one in own)

    def _sample_pos(self, assign_result: AssignResult, num_expected: int, **kwargs) -> Tensor:
        """Indices of at most ``num_expected`` positive priors, in any order; ``kwargs``: ``bboxes``, the priors (N, 4),
        and what :meth:`sample` was given."""
        raise NotImplementedError

    def _sample_neg(self, assign_result: AssignResult, num_expected: int, **kwargs) -> Tensor:
        """As :meth:`_sample_pos`, of negative priors."""
        raise NotImplementedError

    def sample(
        self, assign_result: AssignResult, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs
    ) -> SamplingResult:
        """Sample from an image's priors.

        Args:
            assign_result: of the priors; objects that are priors too are added to it.
            pred_instances: ``priors`` (N, 4).
            gt_instances: ``bboxes`` (K, 4) and ``labels`` (K,), which the priors were assigned to.
            kwargs: what a subclass needs to choose, for instance ``feats``, the image's maps.

        Returns:
            At most ``num`` priors; fewer where there are not enough of a kind.
        """
        priors, boxes = pred_instances.priors, gt_instances.bboxes
        num_own = 0
        if self.add_gt_as_proposals and len(boxes):
            num_own = len(boxes)
            priors = torch.cat([boxes.to(priors.dtype), priors])
            assign_result.add_gt_(gt_instances.labels)
        kwargs['bboxes'] = priors
        positive = self._ordered(self._sample_pos(assign_result, int(self.num * self.pos_fraction), **kwargs))
        wanted = self.num - len(positive)
        if self.neg_pos_ub >= 0:
            wanted = min(wanted, int(self.neg_pos_ub * max(len(positive), 1)))
        negative = self._ordered(self._sample_neg(assign_result, wanted, **kwargs))
        flags = torch.arange(len(priors), device=priors.device) < num_own
        return SamplingResult(positive, negative, priors, boxes, assign_result, flags)

    def _ordered(self, chosen: Tensor) -> Tensor:
        return chosen.sort().values if self._different else chosen.unique()


@TASK_UTILS.register_module()
class RandomSampler(BaseSampler):
    """Samples random priors, a bounded part of them positive.

    The numbers are drawn on the CPU, so that a seed gives the same samples on every device. Arguments are
    :class:`BaseSampler`'s.

    Example:
        In ``train_cfg.rcnn``: 512 regions of each image, at most 128 of them on objects::

            sampler=dict(type='RandomSampler', num=512, pos_fraction=0.25)
    """

    def random_choice(self, gallery: Tensor, num: int) -> Tensor:
        """Draw ``num`` elements of ``gallery`` (M,), M >= num, in any order: (num,)."""
        # Drawn on the CPU: the same samples on every device.
        return gallery[torch.randperm(len(gallery))[:num].to(gallery.device, non_blocking=True)]

    def _sample_pos(self, assign_result: AssignResult, num_expected: int, **kwargs) -> Tensor:
        positive, _ = assign_result.split()
        return positive if len(positive) <= num_expected else self.random_choice(positive, num_expected)

    def _sample_neg(self, assign_result: AssignResult, num_expected: int, **kwargs) -> Tensor:
        _, negative = assign_result.split()
        return negative if len(negative) <= num_expected else self.random_choice(negative, num_expected)


@TASK_UTILS.register_module()
class PseudoSampler(BaseSampler):
    """Takes all priors that are positive or negative; averages count the positives only.

    Args:
        kwargs: ``context``, the head that it samples for, which it does not need.
    """

    def __init__(self, **kwargs) -> None:
        pass

    def sample(
        self, assign_result: AssignResult, pred_instances: InstanceData, gt_instances: InstanceData, *args, **kwargs
    ) -> SamplingResult:
        """Take all priors that are not ignored.

        Args:
            assign_result: of the priors.
            pred_instances: ``priors`` (N, 4).
            gt_instances: ``bboxes`` (K, 4) and ``labels`` (K,).
            args, kwargs: not used.

        Returns:
            All positive and negative priors; no object is added to them.
        """
        priors = pred_instances.priors
        positive, negative = assign_result.split()
        flags = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
        return SamplingResult(positive, negative, priors, gt_instances.bboxes, assign_result, flags, False)


def sample_proposals(
    assigner: Any,
    sampler: Any,
    proposals_list: Sequence[InstanceData],
    batch_gt_instances: Sequence[InstanceData],
    batch_gt_instances_ignore: Sequence[InstanceData | None],
    feats: Sequence[Tensor] | None = None,
) -> list[SamplingResult]:
    """Choose the regions of each image to train with.

    Args:
        assigner, sampler: as :class:`.MaxIoUAssigner` and :class:`RandomSampler`.
        proposals_list: of each image ``bboxes`` (K, 4) in pixels of the network's input, and whatever else.
        batch_gt_instances, batch_gt_instances_ignore: objects of each image, and ignored ones, or None.
        feats: maps (N, C, H_i, W_i), for a sampler that looks at the losses.

    Returns:
        What the sampler gives for each image; assigner and sampler know the boxes as ``priors``.
    """
    results = []
    for i, (proposals, own, ignored) in enumerate(zip(proposals_list, batch_gt_instances, batch_gt_instances_ignore)):
        fields = {'priors' if key == 'bboxes' else key: value for key, value in proposals.items()}
        priors = InstanceData(**fields)
        assigned = assigner.assign(priors, own, ignored)
        levels = None if feats is None else [level[i : i + 1] for level in feats]
        results.append(sampler.sample(assigned, priors, own, feats=levels))
    return results
