"""Non-maximum suppression."""

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

from mmdet.structures.bbox import bbox_overlaps

_ARGUMENTS = dict(nms=('iou_threshold',), soft_nms=('iou_threshold', 'sigma', 'min_score', 'method'))


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = 'linear',
) -> tuple[Tensor, Tensor]:
    """Lower the scores of boxes by their overlap with better ones (Bodla et al., Soft-NMS, ICCV 2017).

    Args:
        boxes: (N, 4), x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: less overlap changes nothing, but with 'gaussian'.
        sigma: of 'gaussian'.
        min_score: boxes whose score is or falls below go.
        method: a box that overlaps a better one by u keeps 1 - u ('linear'), exp(-u^2 / sigma) ('gaussian') or nothing
            ('naive') of its score.

    Returns:
        The kept indices (K,) by falling new score; the new scores (K,).

    Raises:
        ValueError: another method.
    """
    if method not in ('naive', 'linear', 'gaussian'):
        raise ValueError(f"nms.method must be 'naive', 'linear' or 'gaussian', got {method!r}")
    device = scores.device
    boxes, scores = boxes.cpu(), scores.cpu()  # a step waits for the one before: no work for a GPU
    left = (scores >= min_score).nonzero().flatten()
    boxes, scores = boxes[left], scores[left]
    kept, kept_scores = [], []
    while len(left):
        best = scores.argmax()
        kept.append(left[best])
        kept_scores.append(scores[best])
        overlap = bbox_overlaps(boxes[best, None], boxes)[0]
        if method == 'gaussian':
            scores = scores * (-(overlap**2) / sigma).exp()
        else:
            part = 1 - overlap if method == 'linear' else 0
            scores = scores * torch.where(overlap >= iou_threshold, part, 1)
        scores[best] = -1
        stays = (scores >= min_score).nonzero().flatten()
        boxes, scores, left = boxes[stays], scores[stays], left[stays]
    if not kept:
        return left.to(device), scores.to(device)
    return torch.stack(kept).to(device), torch.stack(kept_scores).to(device)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: dict | None) -> tuple[Tensor, Tensor]:
    """Suppress boxes that overlap better ones of the same index (non-maximum suppression).

    Args:
        boxes: (N, 4), x1, y1, x2, y2.
        scores: (N,).
        idxs: (N,), of a class or a level.
        nms_cfg: ``type='nms'`` with ``iou_threshold``, or ``type='soft_nms'`` with the arguments of :func:`soft_nms`;
            ``class_agnostic=True`` suppresses across indices; ``max_num`` detections are kept (default all). From
            ``split_thr`` boxes up (default 10000) it goes index by index, as in mmdetection even if agnostic. None:
            boxes are only sorted.

    Returns:
        Detections (K, 5), box and score by falling score, in float32 or float64; the kept indices (K,).

    Raises:
        ValueError: a type or an argument of NMS there is not.
    """
    cfg: dict[str, Any] = dict(type=None) if nms_cfg is None else dict(nms_cfg)
    kind = cfg.pop('type', 'nms')
    agnostic, max_num = cfg.pop('class_agnostic', False), cfg.pop('max_num', -1)
    split_thr = cfg.pop('split_thr', 10000)
    if kind is not None and kind not in _ARGUMENTS:
        raise ValueError(f"nms.type must be 'nms' or 'soft_nms', got {kind!r}")
    unknown = set(cfg) - set(_ARGUMENTS.get(kind, ()))
    if unknown:
        known = ', '.join([*_ARGUMENTS[kind], 'class_agnostic', 'max_num', 'split_thr'])
        raise ValueError(f'nms.{min(unknown)} is unknown; {kind!r} takes {known}')
    boxes, scores = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (boxes, scores))
    if kind is None or not len(boxes):
        scores, keep = scores.sort(descending=True)
        return torch.cat([boxes[keep], scores[:, None]], 1), keep
    # Boxes of different indices are moved apart, in the boxes' own precision, as in mmdetection: its rounding decides.
    moved = boxes if agnostic else boxes + (idxs.to(boxes) * (boxes.max() + 1))[:, None]

    def suppress(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        if kind == 'soft_nms':
            return soft_nms(boxes, scores, **cfg)
        keep = nms(boxes, scores, **cfg)
        return keep, scores[keep]

    # On the CPU NMS takes time with the square of the number, and Soft-NMS as many steps everywhere: index by index the
    # result is the same, as boxes that begin at 0 or later and are moved apart do not overlap.
    apart = boxes.device.type == 'cpu' and bool(boxes.min() >= 0)
    if len(boxes) < split_thr and (agnostic or kind == 'nms' and not apart):
        keep, scores = suppress(moved, scores)
    else:
        kept: list[Tensor] = []
        new_scores: list[Tensor] = []
        numbers = idxs.unique(return_counts=True)[1].tolist()
        for own in idxs.argsort(stable=True).split(numbers):
            best, best_scores = suppress(moved[own], scores[own])
            kept.append(own[best])
            new_scores.append(best_scores)
        # Equal scores: by their place, not by their index; of many boxes in the order that mmdetection's sort has.
        keep, order = torch.cat(kept).sort()
        scores, order = torch.cat(new_scores)[order].sort(descending=True, stable=len(boxes) < split_thr)
        keep = keep[order]
    if max_num > 0:
        keep, scores = keep[:max_num], scores[:max_num]
    return torch.cat([boxes[keep], scores[:, None]], 1), keep


def multiclass_nms(
    bboxes: Tensor, scores: Tensor, score_thr: float, nms_cfg: dict | None, max_num: int = -1
) -> tuple[Tensor, Tensor]:
    """Choose detections from boxes with scores of all classes, by NMS class by class.

    Args:
        bboxes: (N, 4), or (N, C * 4) with a box for each class.
        scores: (N, C + 1); the last column is background.
        score_thr: scores must be greater.
        nms_cfg: as of :func:`batched_nms`.
        max_num: detections kept; 0 or less: all.

    Returns:
        Detections (K, 5), box and score by falling score; classes (K,).
    """
    scores = scores[:, :-1]
    rows, labels = (scores > score_thr).nonzero(as_tuple=True)
    if bboxes.shape[1] > 4:
        boxes = bboxes.unflatten(1, (-1, 4))[rows, labels]
    else:
        boxes = bboxes[rows]
    detections, keep = batched_nms(boxes, scores[rows, labels], labels, nms_cfg)
    if max_num > 0:
        detections, keep = detections[:max_num], keep[:max_num]
    return detections, labels[keep]
