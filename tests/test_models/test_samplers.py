"""Samplers: chance that can be replaced, the hardest by brute force, all."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import InstanceData
from torch.nn import functional as F

from mmdet.models.roi_heads import BBoxHead
from mmdet.models.task_modules import AssignResult, OHEMSampler, PseudoSampler, RandomSampler
from mmdet.registry import TASK_UTILS

LABELS = torch.tensor([2, 0, 1])
BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [5, 30, 15, 60]])


def inputs(number=60, seed=0):
    """Assignment of priors to three objects: a third each positive, negative and ignored."""
    generator = torch.Generator().manual_seed(seed)
    gt_inds = torch.randint(-1, 2, (number,), generator=generator)
    gt_inds = torch.where(gt_inds == 1, torch.randint(1, 4, (number,), generator=generator), gt_inds)
    labels = torch.where(gt_inds > 0, LABELS[(gt_inds - 1).clamp(min=0)], -1)
    corner = torch.rand(number, 2, generator=generator) * 50
    priors = InstanceData(priors=torch.cat([corner, corner + 10], 1))
    assigned = AssignResult(3, gt_inds, torch.rand(number, generator=generator), labels)
    return assigned, priors, InstanceData(bboxes=BOXES, labels=LABELS)


def test_random_choice_can_be_replaced(monkeypatch):
    monkeypatch.setattr(RandomSampler, 'random_choice', lambda self, gallery, num: gallery.flip(0)[:num])
    assigned, priors, objects = inputs()
    result = RandomSampler(16, 0.25, add_gt_as_proposals=False).sample(assigned, priors, objects)
    assert result.pos_inds.tolist() == (assigned.gt_inds > 0).nonzero().flatten().tolist()[-4:]
    assert result.neg_inds.tolist() == (assigned.gt_inds == 0).nonzero().flatten().tolist()[-12:]


def test_random_choice_draws_each_equally_often():
    torch.manual_seed(0)
    sampler, gallery, counts = RandomSampler(4, 0.5), torch.tensor([3, 5, 8, 11]), torch.zeros(12)
    for _ in range(2000):
        drawn = sampler.random_choice(gallery, 2)
        assert len(set(drawn.tolist())) == 2
        counts[drawn] += 1
    assert counts.sum() == 4000 and (counts[gallery] - 1000).abs().max() < 120  # 5 sigma


class Head(SimpleNamespace):
    """A RoI head that classifies a region by its place."""

    def _bbox_forward(self, feats, rois):
        assert not torch.is_grad_enabled() and (rois[:, 0] == 0).all()
        return dict(cls_score=torch.stack([(rois[:, 1] * k).sin() * 5 for k in range(1, 5)], 1) * feats[0])


@pytest.mark.parametrize('sigmoid', [False, True])
@pytest.mark.parametrize('own', [False, True])
def test_hardest_by_brute_force(sigmoid, own):
    head = Head(bbox_head=BBoxHead(num_classes=3, loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=sigmoid)))
    sampler = TASK_UTILS.build(
        dict(type='OHEMSampler', num=16, pos_fraction=0.25, add_gt_as_proposals=own), default_args=dict(context=head)
    )
    assigned, priors, objects = inputs()
    result = sampler.sample(assigned, priors, objects, feats=[torch.tensor(1.5)])
    if own:
        priors = InstanceData(priors=torch.cat([BOXES, priors.priors]))
    losses = {}
    for i, (x, label) in enumerate(zip(priors.priors[:, 0].tolist(), assigned.labels.tolist())):
        logits = torch.tensor([x * k for k in range(1, 5)]).sin() * 7.5
        label = label if label >= 0 else 3
        if sigmoid:
            losses[i] = F.binary_cross_entropy_with_logits(
                logits, F.one_hot(torch.tensor(label), 4).float(), reduction='sum'
            ).item()
        else:
            losses[i] = F.cross_entropy(logits, torch.tensor(label)).item()
    for found, candidates, number in (
        (result.pos_inds, assigned.gt_inds > 0, 4),
        (result.neg_inds, assigned.gt_inds == 0, 12),
    ):
        ranked = sorted(candidates.nonzero().flatten().tolist(), key=losses.get, reverse=True)
        assert len(ranked) > number and found.tolist() == sorted(ranked[:number])
    assert torch.equal(result.pos_gt_labels, assigned.labels[result.pos_inds])


def test_what_mining_cannot_do():
    with pytest.raises(ValueError, match='loss_bbox'):
        OHEMSampler(16, 0.25, context=Head(bbox_head=None), loss_key='loss_bbox')
    with pytest.raises(ValueError, match='no box head'):
        OHEMSampler(16, 0.25, context=torch.nn.Identity())


def test_all():
    assigned, priors, objects = inputs()
    result = PseudoSampler().sample(assigned, priors, objects)
    assert result.pos_inds.tolist() == [i for i, g in enumerate(assigned.gt_inds) if g > 0]
    assert result.neg_inds.tolist() == [i for i, g in enumerate(assigned.gt_inds) if g == 0]
    assert torch.equal(result.pos_gt_bboxes, BOXES[assigned.gt_inds[result.pos_inds] - 1])
    assert result.avg_factor == len(result.pos_inds) and not result.pos_is_gt.any()
