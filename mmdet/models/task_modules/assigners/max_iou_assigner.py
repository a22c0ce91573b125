"""Which prior is responsible for which object."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet.mmdetection.arguments import accepts
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import BaseBoxes, bbox_overlaps, get_box_tensor


@TASK_UTILS.register_module()
@accepts(scale=1.0, dtype=None)
class BboxOverlaps2D:
    """Computes overlaps of boxes: :func:`.bbox_overlaps` as a part of a config."""

    def __call__(
        self, bboxes1: Tensor | BaseBoxes, bboxes2: Tensor | BaseBoxes, mode: str = 'iou', is_aligned: bool = False
    ) -> Tensor:
        """Compute the overlaps of boxes (M, 4) and (N, 4), (M, N), or (M,) if aligned; see :func:`.bbox_overlaps`.

        A fifth column, as of a score, is left out.
        """
        boxes1, boxes2 = (get_box_tensor(boxes) for boxes in (bboxes1, bboxes2))
        boxes1, boxes2 = (boxes[..., :4] if boxes.shape[-1] == 5 else boxes for boxes in (boxes1, boxes2))
        return bbox_overlaps(boxes1, boxes2, mode, is_aligned)


@dataclass
class AssignResult:
    """Holds the assignment of N priors to ``num_gts`` objects."""

    num_gts: int
    gt_inds: Tensor  # (N,): -1 ignored, 0 background, i + 1 the i-th object
    max_overlaps: Tensor  # (N,): with the best object
    labels: Tensor  # (N,): class of the object, -1 for background and ignored

    def __post_init__(self) -> None:
        self._split: tuple = (None, ())

    @property
    def num_preds(self) -> int:
        """Return the number of priors."""
        return len(self.gt_inds)

    def split(self) -> tuple[Tensor, Tensor]:
        """Return the indices of the positive priors, (P,), and of the background, (Q,), both ascending."""
        if self._split[0] is not self.gt_inds:
            kind = self.gt_inds.sign()
            numbers = torch.stack([kind > 0, kind == 0, kind < 0]).sum(1).tolist()  # the one read back from a GPU
            self._split = self.gt_inds, kind.argsort(descending=True, stable=True).split(numbers)[:2]
        return self._split[1]

    def add_gt_(self, gt_labels: Tensor) -> None:
        """Put the objects themselves, as priors of their own, before the others: num_gts + N priors.

        Args:
            gt_labels: the objects' classes (num_gts,).
        """
        own = torch.arange(1, len(gt_labels) + 1, device=gt_labels.device)
        self.gt_inds = torch.cat([own, self.gt_inds])
        self.max_overlaps = torch.cat([self.max_overlaps.new_ones(len(gt_labels)), self.max_overlaps])
        self.labels = torch.cat([gt_labels, self.labels])

    @classmethod
    def random(cls, rng: Any = None, num_preds: int = 20, num_gts: int = 8, num_classes: int = 20) -> 'AssignResult':
        """Make one up, for tests.

        Args:
            rng: a seed, or what :func:`numpy.random.default_rng` takes.
            num_preds, num_gts, num_classes: numbers of priors, objects and classes.
        """
        rng = np.random.default_rng(rng)
        inds = torch.from_numpy(rng.integers(-1, num_gts + 1, num_preds))
        classes = torch.from_numpy(np.append(rng.integers(0, num_classes, num_gts), -1))
        overlaps = torch.from_numpy(rng.random(num_preds)).float()
        return cls(num_gts, inds, overlaps, classes[torch.where(inds > 0, inds - 1, -1)])


def assign_valid(
    assigner: Any, priors: Tensor, valid: Tensor, gt_instances: InstanceData, gt_instances_ignore: InstanceData | None
) -> AssignResult:
    """Assign the valid ones of priors (N, 4), in pixels, to objects; the others are ignored.

    Args:
        assigner: as :class:`MaxIoUAssigner`; any other gets the valid priors alone.
        valid: (N,) bool.
        gt_instances, gt_instances_ignore: as of :meth:`MaxIoUAssigner.assign`.

    Returns:
        The assignment of all N priors.
    """
    if type(assigner) is MaxIoUAssigner:
        # A prior without a size overlaps nothing. To leave it out would read back from a GPU how many are left.
        found = assigner.assign(InstanceData(priors=priors * valid[:, None]), gt_instances, gt_instances_ignore)
        found.gt_inds = found.gt_inds.masked_fill(~valid, -1)
        return found
    found = assigner.assign(InstanceData(priors=priors[valid]), gt_instances, gt_instances_ignore)
    for name, other in dict(gt_inds=-1, max_overlaps=0, labels=-1).items():
        part = getattr(found, name)
        if part is not None:  # labels may be, of an assigner of one's own
            whole = part.new_full(valid.shape, other)
            whole[valid] = part
            setattr(found, name, whole)
    return found


class BaseAssigner(ABC):
    """Says which prior is responsible for which object; the base of assigners of one's own."""

    @abstractmethod
    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs,
    ) -> AssignResult:
        """Assign N ``priors`` of ``pred_instances`` to objects, as :meth:`MaxIoUAssigner.assign`."""


@TASK_UTILS.register_module()
@accepts(perm_repeat_gt_cfg=None)
class MaxIoUAssigner(BaseAssigner):
    """Assigns priors to objects by IoU: positive from ``pos_iou_thr`` up, negative below ``neg_iou_thr``, else ignored.

    That is the rule of Ren et al., Faster R-CNN, 2015, section 3.1.2. With ``match_low_quality`` an object's best
    priors become its own when they overlap by ``min_pos_iou`` or more.

    Args:
        pos_iou_thr: least IoU of a positive.
        neg_iou_thr: upper bound, or (lower, upper).
        min_pos_iou: least IoU of an object's best priors.
        gt_max_assign_all: all priors that tie for an object's best, or one.
        ignore_iof_thr: priors that lie in ignored regions by more than this are ignored; negative: never.
        ignore_wrt_candidates: measure that as a part of the prior (else of the ignored region).
        gpu_assign_thr: with more objects the overlaps are computed on the CPU, to save GPU memory; negative: never.
        iou_calculator: what computes overlaps, as :class:`BboxOverlaps2D`.

    Raises:
        ValueError: a threshold that is not from 0 to 1.

    Example:
        In the ``train_cfg`` of the region proposal network::

            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3)
    """

    def __init__(
        self,
        pos_iou_thr: float,
        neg_iou_thr: float | tuple,
        min_pos_iou: float = 0.0,
        gt_max_assign_all: bool = True,
        ignore_iof_thr: float = -1,
        ignore_wrt_candidates: bool = True,
        match_low_quality: bool = True,
        gpu_assign_thr: float = -1,
        iou_calculator: dict = dict(type='BboxOverlaps2D'),
    ) -> None:
        for key, value in dict(pos_iou_thr=pos_iou_thr, neg_iou_thr=neg_iou_thr, min_pos_iou=min_pos_iou).items():
            if not all(0 <= number <= 1 for number in np.atleast_1d(value)):
                raise ValueError(f'{type(self).__name__}: {key} must be from 0 to 1, got {value!r}')
        self.pos_iou_thr = pos_iou_thr
        self.neg_iou_thr = neg_iou_thr if isinstance(neg_iou_thr, (tuple, list)) else (0.0, neg_iou_thr)
        self.min_pos_iou = min_pos_iou
        self.gt_max_assign_all = gt_max_assign_all
        self.ignore_iof_thr = ignore_iof_thr
        self.ignore_wrt_candidates = ignore_wrt_candidates
        self.match_low_quality = match_low_quality
        self.gpu_assign_thr = gpu_assign_thr
        self.iou_calculator = TASK_UTILS.build(iou_calculator)

    @torch.no_grad()
    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs,
    ) -> AssignResult:
        """Assign an image's priors to its objects.

        Args:
            pred_instances: ``priors`` (N, 4), in the unit of the objects' boxes.
            gt_instances: ``bboxes`` (K, 4) and ``labels`` (K,).
            gt_instances_ignore: ``bboxes`` (I, 4) of ignored regions, or None.
            kwargs: of other assigners, not used.

        Returns:
            The assignment, on the priors' device. Without objects all priors are background.
        """
        priors, boxes, labels = pred_instances.priors, gt_instances.bboxes, gt_instances.labels
        device = priors.device
        ignored = None if gt_instances_ignore is None else gt_instances_ignore.bboxes
        if 0 < self.gpu_assign_thr < len(boxes):
            priors, boxes, labels = priors.cpu(), boxes.cpu(), labels.cpu()
            ignored = None if ignored is None else ignored.cpu()
        overlaps = self.iou_calculator(boxes, priors)
        if self.ignore_iof_thr > 0 and ignored is not None and len(ignored) and len(priors):
            if self.ignore_wrt_candidates:
                inside = self.iou_calculator(priors, ignored, mode='iof').amax(1)
            else:
                inside = self.iou_calculator(ignored, priors, mode='iof').amax(0)
            overlaps = overlaps.masked_fill(inside > self.ignore_iof_thr, -1)
        result = self.assign_wrt_overlaps(overlaps, labels)
        return AssignResult(
            result.num_gts, result.gt_inds.to(device), result.max_overlaps.to(device), result.labels.to(device)
        )

    def assign_wrt_overlaps(self, overlaps: Tensor, gt_labels: Tensor) -> AssignResult:
        """Assign N priors to K objects of classes ``gt_labels`` (K,) by their overlaps (K, N)."""
        num_gts, num_priors = overlaps.shape
        if not num_gts or not num_priors:
            background = torch.zeros(num_priors, dtype=torch.long, device=overlaps.device)
            return AssignResult(num_gts, background, overlaps.new_zeros(num_priors), background - 1)
        best, best_gt = overlaps.max(0)
        low, high = self.neg_iou_thr
        gt_inds = torch.where((best >= low) & (best < high), 0, -1)
        gt_inds = torch.where(best >= self.pos_iou_thr, best_gt + 1, gt_inds)
        if self.match_low_quality:
            gt_best, gt_best_prior = overlaps.max(1)
            wanted = gt_best >= self.min_pos_iou
            if self.gt_max_assign_all:
                # A prior that ties for several objects goes to the last of them.
                ties = (overlaps == gt_best[:, None]) & wanted[:, None]
                number = torch.arange(1, num_gts + 1, device=overlaps.device)[:, None]
                last = (ties * number).amax(0)
                gt_inds = torch.where(last > 0, last, gt_inds)
            else:
                for i in wanted.nonzero().flatten().tolist():
                    gt_inds[gt_best_prior[i]] = i + 1
        labels = torch.where(gt_inds > 0, gt_labels[(gt_inds - 1).clamp(min=0)], -1)
        return AssignResult(num_gts, gt_inds, best, labels)
