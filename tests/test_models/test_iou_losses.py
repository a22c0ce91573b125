"""Losses on overlaps against plain Python and numerical gradients in float64."""

import math

import pytest
import torch

from mmdet.models.losses import BoundedIoULoss, CIoULoss, DIoULoss, GIoULoss, IoULoss

EPS = 1e-6
GENERATOR = torch.Generator().manual_seed(0)
CORNER = torch.rand(8, 2, generator=GENERATOR, dtype=torch.float64) * 20
TARGET = torch.cat([CORNER, CORNER + 5 + 20 * torch.rand(8, 2, generator=GENERATOR, dtype=torch.float64)], 1)
PRED = TARGET + 3 * torch.randn(8, 4, generator=GENERATOR, dtype=torch.float64)
PRED[6] = TARGET[6] + torch.tensor([100.0, 90, 100, 90])  # apart
PRED[7] = TARGET[7] + torch.tensor([0.5, -0.4, 1.5, 0.6])  # near


def by_hand(kind, p, t):
    (px1, py1, px2, py2), (tx1, ty1, tx2, ty2) = p, t
    pw, ph, tw, th = px2 - px1, py2 - py1, tx2 - tx1, ty2 - ty1
    inner = max(0, min(px2, tx2) - max(px1, tx1)) * max(0, min(py2, ty2) - max(py1, ty1))
    union = pw * ph + tw * th - inner
    iou = inner / union
    hull_w, hull_h = max(px2, tx2) - min(px1, tx1), max(py2, ty2) - min(py1, ty1)
    dx, dy = abs(px1 + px2 - tx1 - tx2) / 2, abs(py1 + py2 - ty1 - ty2) / 2
    diou = iou - (dx**2 + dy**2) / (hull_w**2 + hull_h**2)
    if kind == 'bounded':
        costs = [
            1 - max(0, (tw - 2 * dx) / (tw + 2 * dx + 1e-3)),
            1 - max(0, (th - 2 * dy) / (th + 2 * dy + 1e-3)),
            1 - min(tw / (pw + 1e-3), pw / (tw + 1e-3)),
            1 - min(th / (ph + 1e-3), ph / (th + 1e-3)),
        ]
        return [cost**2 / 0.4 if cost < 0.2 else cost - 0.1 for cost in costs]
    if kind == 'ciou':
        v = 4 / math.pi**2 * (math.atan(tw / th) - math.atan(pw / ph)) ** 2
        return 1 - (diou - (v / (1 - iou + v) * v if iou > 0.5 else 0))
    return {
        'linear': 1 - iou,
        'square': 1 - iou**2,
        'log': -math.log(max(iou, EPS)),
        'diou': 1 - diou,
        'giou': 1 - (iou - (hull_w * hull_h - union) / (hull_w * hull_h)),
    }[kind]


LOSSES = {
    'linear': IoULoss(mode='linear'),
    'square': IoULoss(mode='square'),
    'log': IoULoss(),
    'giou': GIoULoss(),
    'diou': DIoULoss(),
    'ciou': CIoULoss(),
    'bounded': BoundedIoULoss(),
}


@pytest.mark.parametrize('kind', LOSSES)
def test_values_and_gradients(kind):
    want = torch.tensor([by_hand(kind, p, t) for p, t in zip(PRED.tolist(), TARGET.tolist())], dtype=torch.float64)
    got = LOSSES[kind](PRED, TARGET, reduction_override='none')
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    if kind == 'ciou':  # the weight of the aspect ratio has no gradient of its own: hold it fixed
        pred = PRED.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(LOSSES[kind](pred, TARGET, reduction_override='sum'), pred)
        for i in range(8):
            iou = 1 - by_hand('linear', PRED[i].tolist(), TARGET[i].tolist())

            def fixed(boxes, weight=None):
                (x1, y1, x2, y2), t = boxes, TARGET[i].tolist()
                v = 4 / math.pi**2 * (math.atan((t[2] - t[0]) / (t[3] - t[1])) - math.atan((x2 - x1) / (y2 - y1))) ** 2
                return v if weight is None else by_hand('diou', boxes, t) + weight * v

            v = fixed(PRED[i].tolist())
            weight = v / (1 - iou + v) if iou > 0.5 else 0
            for j in range(4):
                up, down = PRED[i].tolist(), PRED[i].tolist()
                up[j] += 1e-5
                down[j] -= 1e-5
                slope = (fixed(up, weight) - fixed(down, weight)) / 2e-5
                assert gradient[i, j].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)
    else:
        apart = [i for i in range(8) if i != 6 or kind in ('giou', 'diou')]
        assert torch.autograd.gradcheck(
            lambda pred: LOSSES[kind](pred, TARGET[apart], reduction_override='none'),
            PRED[apart].clone().requires_grad_(),
        )


@pytest.mark.parametrize('kind', LOSSES)
def test_weights(kind):
    loss, boxes = LOSSES[kind], torch.tensor([1.0, 0, 2, 1, 1, 0, 0, 1]).double()
    each = loss(PRED, TARGET, reduction_override='none').reshape(8, -1).sum(1)
    want = (each * boxes).sum() / 5
    torch.testing.assert_close(loss(PRED, TARGET, boxes, avg_factor=5), want, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss(PRED, TARGET, boxes[:, None].expand(8, 4), avg_factor=5), want, rtol=1e-6, atol=0)
    if kind != 'bounded':  # of four weights the mean counts
        rows = boxes[:, None] * torch.tensor([0.5, 1.5, 2.0, 0.0]).double()
        torch.testing.assert_close(loss(PRED, TARGET, rows, avg_factor=5), want, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match='sum'):
        loss(PRED, TARGET, avg_factor=2, reduction_override='sum')


@pytest.mark.parametrize('kind', LOSSES)
def test_equal_boxes_no_box_and_no_weight(kind):
    pred = TARGET.float().requires_grad_()
    loss = LOSSES[kind](pred, TARGET.float())
    (gradient,) = torch.autograd.grad(loss, pred)
    assert loss.item() == pytest.approx(0, abs=1e-5) and gradient.isfinite().all()
    point = torch.zeros(3, 4, requires_grad=True)  # without area
    for weight in (torch.zeros(3), torch.zeros(3, 4)):
        loss = LOSSES[kind](point, TARGET[:3].float(), weight, avg_factor=1)
        (gradient,) = torch.autograd.grad(loss, point)
        assert loss.item() == 0 and not gradient.any()
    none = torch.zeros(0, 4, requires_grad=True)
    assert LOSSES[kind](none, torch.zeros(0, 4)).item() == 0
    assert LOSSES[kind](none, torch.zeros(0, 4), torch.zeros(0), avg_factor=1).requires_grad


def test_unknown_mode():
    with pytest.raises(ValueError, match='cubic'):
        IoULoss(mode='cubic')
