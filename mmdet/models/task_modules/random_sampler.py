"""Which priors of an image the loss looks at."""
from dataclasses import dataclass

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet.registry import TASK_UTILS

from .max_iou_assigner import AssignResult


@dataclass
class SamplingResult:
    """P positive and Q negative priors of an image."""
    pos_inds: Tensor  # (P,)
    neg_inds: Tensor  # (Q,)
    pos_priors: Tensor  # (P, 4)
    neg_priors: Tensor  # (Q, 4)
    pos_assigned_gt_inds: Tensor  # (P,) index of the object, from 0
    pos_gt_bboxes: Tensor  # (P, 4)
    pos_gt_labels: Tensor  # (P,)
    pos_is_gt: Tensor  # (P,) bool: the prior is the object itself

    @property
    def priors(self) -> Tensor:
        """(P + Q, 4), positives first."""
        return torch.cat([self.pos_priors, self.neg_priors])

    @property
    def avg_factor(self) -> int:
        """Number of samples, each kind counted as at least one (as in mmdetection)."""
        return max(len(self.pos_inds), 1) + max(len(self.neg_inds), 1)


@TASK_UTILS.register_module()
class RandomSampler:
    """Random priors, a bounded part of them positive.

    Args:
        num: priors an image.
        pos_fraction: largest part of positives; negatives fill up.
        neg_pos_ub: largest number of negatives for each positive; negative: no bound.
        add_gt_as_proposals: the objects themselves are priors too.
    """

    def __init__(self, num: int, pos_fraction: float, neg_pos_ub: float = -1,
                 add_gt_as_proposals: bool = True) -> None:
        self.num = num
        self.pos_fraction = pos_fraction
        self.neg_pos_ub = neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals

    @staticmethod
    def _choose(candidates: Tensor, number: int) -> Tensor:
        if len(candidates) <= number:
            return candidates
        # Drawn on the CPU: the same samples on every device.
        return candidates[torch.randperm(len(candidates))[:number].to(candidates.device)].sort().values

    def sample(self, assign_result: AssignResult, pred_instances: InstanceData,
               gt_instances: InstanceData) -> SamplingResult:
        """Sample from ``pred_instances.priors`` (N, 4), assigned to ``gt_instances`` with bboxes and labels."""
        priors, boxes, labels = pred_instances.priors, gt_instances.bboxes, gt_instances.labels
        num_own = 0
        if self.add_gt_as_proposals and len(boxes):
            num_own = len(boxes)
            priors = torch.cat([boxes.to(priors.dtype), priors])
            assign_result = assign_result.prepend_gts(labels)
        positive = self._choose((assign_result.gt_inds > 0).nonzero().flatten(), int(self.num * self.pos_fraction))
        wanted = self.num - len(positive)
        if self.neg_pos_ub >= 0:
            wanted = min(wanted, int(self.neg_pos_ub * max(len(positive), 1)))
        negative = self._choose((assign_result.gt_inds == 0).nonzero().flatten(), wanted)
        assigned = assign_result.gt_inds[positive] - 1
        return SamplingResult(positive, negative, priors[positive], priors[negative], assigned,
                              boxes.reshape(-1, 4)[assigned], assign_result.labels[positive], positive < num_own)
