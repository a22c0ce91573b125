"""NMS by class and soft-NMS against plain loops."""

import math

import pytest
import torch
import torchvision
from torchvision.ops import box_iou

from mmdet.models.layers import batched_nms, bbox_nms, multiclass_nms
from mmdet.models.layers.bbox_nms import soft_nms


def test_multiclass_nms_equals_plain_loops():
    torch.manual_seed(0)
    corner = torch.rand(40, 3, 2) * 30
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(40, 3, 2)], 2).flatten(1)
    scores = torch.rand(40, 4).softmax(1)
    got, labels = multiclass_nms(boxes, scores, 0.2, dict(type='nms', iou_threshold=0.5), 15)
    kept = []
    pairs = [(scores[i, c].item(), c, boxes[i, 4 * c : 4 * c + 4]) for i in range(40) for c in range(3)]
    for score, c, box in sorted((p for p in pairs if p[0] > 0.2), key=lambda p: -p[0]):
        if all(c != k or box_iou(box[None], b[None]) <= 0.5 for _, k, b in kept):
            kept.append((score, c, box))
    kept = kept[:15]
    assert labels.tolist() == [k[1] for k in kept]
    torch.testing.assert_close(got, torch.stack([torch.cat([k[2], torch.tensor([k[0]])]) for k in kept]))
    assert multiclass_nms(boxes, scores, 2.0, dict(type='nms', iou_threshold=0.5))[0].shape == (0, 5)
    with pytest.raises(ValueError, match='voting'):
        batched_nms(boxes[:, :4], scores[:, 0], labels, dict(type='voting'))
    with pytest.raises(ValueError, match='iou_thr is unknown'):
        batched_nms(boxes[:, :4], scores[:, 0], labels, dict(type='nms', iou_thr=0.5))


def crowd(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator, dtype=torch.float64) * 30
    size = 5 + 20 * torch.rand(number, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corner, corner + size], 1), torch.rand(number, generator=generator, dtype=torch.float64)


def soft_nms_by_hand(boxes, scores, method, iou_threshold, sigma, min_score):
    left, kept = {i: s for i, s in enumerate(scores.tolist()) if s >= min_score}, []
    while left:
        best = max(left, key=left.get)
        kept.append((best, left.pop(best)))
        for i in list(left):
            iou = box_iou(boxes[best : best + 1], boxes[i : i + 1]).item()
            if method == 'gaussian':
                left[i] *= math.exp(-(iou**2) / sigma)
            elif iou >= iou_threshold:
                left[i] *= 1 - iou if method == 'linear' else 0
            if left[i] < min_score:
                del left[i]
    return kept


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_equals_plain_loops(method):
    for seed, options in enumerate([(0.3, 0.5, 0.05), (0.5, 0.2, 0.2)]):
        boxes, scores = crowd(40, seed)
        names = dict(zip(('iou_threshold', 'sigma', 'min_score'), options))
        keep, new_scores = soft_nms(boxes, scores, method=method, **names)
        want = soft_nms_by_hand(boxes, scores, method, *options)
        assert keep.tolist() == [i for i, _ in want] and len(keep) < 40
        torch.testing.assert_close(new_scores, torch.tensor([s for _, s in want], dtype=torch.float64))
        # By class: as each class alone.
        labels = torch.arange(40) % 3
        cfg = dict(names, type='soft_nms', method=method)
        detections, keep = batched_nms(boxes, scores, labels, cfg)
        pairs = []
        for label in range(3):
            own = (labels == label).nonzero().flatten()
            pairs += [(s, own[i].item()) for i, s in soft_nms_by_hand(boxes[own], scores[own], method, *options)]
        pairs.sort(reverse=True)
        assert keep.tolist() == [i for _, i in pairs]
        assert torch.equal(detections[:, :4], boxes[keep])
        torch.testing.assert_close(detections[:, 4], torch.tensor([s for s, _ in pairs], dtype=torch.float64))
        agnostic, keep = batched_nms(boxes, scores, labels, dict(cfg, class_agnostic=True, max_num=5))
        assert keep.tolist() == [i for i, _ in want][:5] and agnostic.shape == (5, 5)


def test_soft_nms_of_nothing():
    cfg = dict(type='soft_nms', iou_threshold=0.5, min_score=0.1)
    boxes, scores = crowd(4)
    for number, factor in ((0, 1), (4, 0.01)):
        detections, labels = multiclass_nms(
            boxes[:number], torch.stack([scores * factor, scores], 1)[:number], 0.0, cfg
        )
        assert detections.shape == (0, 5) and labels.shape == (0,)
    with pytest.raises(ValueError, match="'quadratic'"):
        soft_nms(boxes, scores, method='quadratic')


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_suppressed_in_float(dtype):
    boxes, scores = crowd(30)
    boxes, scores = boxes.float(), torch.stack([scores, 1 - scores], 1).to(dtype)
    got = multiclass_nms(boxes, scores, 0.1, dict(iou_threshold=0.5))
    want = multiclass_nms(boxes, scores.float(), 0.1, dict(iou_threshold=0.5))
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_boxes_without_nms_are_sorted():
    boxes, scores = crowd(9)
    detections, keep = batched_nms(boxes, scores, torch.zeros(9).long(), None)
    assert keep.tolist() == scores.argsort(descending=True).tolist() and torch.equal(detections[:, 4], scores[keep])


def test_index_by_index_is_as_all_at_once(monkeypatch):
    """Which of both it is follows from the device, and from whether boxes begin before 0 and may meet when moved."""
    calls = []
    monkeypatch.setattr(bbox_nms, 'nms', lambda *args, **cfg: calls.append(0) or torchvision.ops.nms(*args, **cfg))
    generator = torch.Generator().manual_seed(0)
    for trial in range(40):
        corner = torch.rand(300, 2, generator=generator) * 100 - int(trial % 3 == 0)
        boxes = torch.cat([corner, corner + torch.rand(300, 2, generator=generator) * 40], 1)
        scores = torch.rand(300, generator=generator)
        scores = (scores * 20).round() / 20 if trial % 2 else scores  # ties
        index = torch.randint(0, 5, (300,), generator=generator)
        calls.clear()
        _, kept = batched_nms(boxes, scores, index, dict(type='nms', iou_threshold=0.5))
        assert len(calls) == (1 if trial % 3 == 0 else 5)
        moved = boxes + (index * (boxes.max() + 1))[:, None]
        assert torch.equal(kept, torchvision.ops.nms(moved, scores, 0.5))
