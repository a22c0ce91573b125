"""Losses by their formulas in float64."""

import pytest
import torch
from torch.nn import functional as F

from mmdet.models.losses import CrossEntropyLoss, L1Loss, SmoothL1Loss, accuracy

A = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
B = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2


@pytest.mark.parametrize('beta', [1.0, 1 / 9])
def test_smooth_l1(beta):
    torch.testing.assert_close(SmoothL1Loss(beta)(A, B), F.smooth_l1_loss(A, B, beta=beta))
    assert torch.autograd.gradcheck(SmoothL1Loss(beta), (A.clone().requires_grad_(), B))
    with pytest.raises(ValueError, match='beta'):
        SmoothL1Loss(0)


def test_weight_factor_and_reduction():
    weight = torch.tensor([1.0, 0, 2, 0, 0, 1])[:, None].double()
    torch.testing.assert_close(
        L1Loss(loss_weight=3.0)(A, B, weight, avg_factor=5), 3 * ((A - B).abs() * weight).sum() / 5
    )
    torch.testing.assert_close(L1Loss()(A, B, reduction_override='sum'), (A - B).abs().sum())
    assert L1Loss(reduction='none')(A, B).shape == A.shape
    with pytest.raises(ValueError, match='sum'):
        L1Loss(reduction='sum')(A, B, avg_factor=2)
    with pytest.raises(ValueError, match='median'):
        L1Loss(reduction='median')


def test_softmax_and_sigmoid_cross_entropy():
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    weight = torch.tensor([1.0, 0, 1, 1, 0, 1]).double()
    logs = -torch.log_softmax(A, 1)[torch.arange(6), target]
    torch.testing.assert_close(CrossEntropyLoss()(A, target, weight, avg_factor=4), (logs * weight).sum() / 4)
    hot = F.one_hot(torch.tensor([0, 1, 2, 3, 4, 4]), 5)[:, :4].double()  # 4 is background
    p = A.sigmoid()
    want = -(hot * p.log() + (1 - hot) * (1 - p).log())
    got = CrossEntropyLoss(use_sigmoid=True)(A, torch.tensor([0, 1, 2, 3, 4, 4]), weight, avg_factor=7)
    torch.testing.assert_close(got, (want * weight[:, None]).sum() / 7)
    with pytest.raises(ValueError, match='exclude'):
        CrossEntropyLoss(use_sigmoid=True, use_mask=True)


def test_mask_loss_reads_each_objects_own_class():
    pred = torch.randn(3, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    target, labels = (torch.rand(3, 5, 5) > 0.5), torch.tensor([2, 0, 2])
    p = pred.sigmoid()[torch.arange(3), labels]
    want = -(target * p.log() + ~target * (1 - p).log()).mean()
    got = CrossEntropyLoss(use_mask=True, loss_weight=2.0)(pred, target, labels)
    torch.testing.assert_close(got, 2 * want[None])
    got.sum().backward()
    assert not pred.grad[0, 0].any() and pred.grad[0, 2].all()


@pytest.mark.parametrize(
    'loss, target',
    [
        (L1Loss(), torch.zeros(0, 4)),
        (SmoothL1Loss(), torch.zeros(0, 4)),
        (CrossEntropyLoss(), torch.zeros(0, dtype=torch.long)),
        (CrossEntropyLoss(use_sigmoid=True), torch.zeros(0, dtype=torch.long)),
    ],
)
def test_no_sample_is_nought_with_a_gradient(loss, target):
    pred = torch.zeros(0, 4, requires_grad=True)
    for value in (loss(pred, target), loss(pred, target, avg_factor=0)):
        assert value.item() == 0 and value.requires_grad
    mask = torch.zeros(0, 4, 5, 5, requires_grad=True)
    assert CrossEntropyLoss(use_mask=True)(mask, torch.zeros(0, 5, 5), torch.zeros(0, dtype=torch.long)).item() == 0


def test_accuracy():
    scores = torch.eye(4)[[0, 1, 2, 2]]
    assert accuracy(scores, torch.tensor([0, 1, 2, 3])).tolist() == [75]
    assert accuracy(scores, torch.tensor([0, 1, 2, 3]), topk=4).tolist() == [100]
    assert accuracy(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).tolist() == [0]
