"""What an exported model finds, beside what the model finds that it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from scipy.optimize import linear_sum_assignment
from terminaltables import AsciiTable
from torch import Tensor

from mmdet.models.roi_heads.fcn_mask_head import paste_mask
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi

from .formats import Run

WRONG = 1e6
#: pixels of each mask that may differ: there are small masks
SPARED = 2


@dataclass
class Found:
    """Holds the K detections of an image, in pixels of the file."""

    boxes: Tensor  # (K, 4)
    scores: Tensor  # (K,)
    labels: Tensor  # (K,)
    masks: Tensor | None = None  # (K, S, S), probabilities
    pasted: Tensor | None = None  # (K, H, W) bool

    def cpu(self) -> 'Found':
        """Return the same, on the CPU."""
        parts: Any = {name: part if part is None else part.cpu() for name, part in vars(self).items()}
        return Found(**parts)


@dataclass
class Tolerance:
    """Says what may differ."""

    boxes: float  # pixels
    scores: float
    masks: float  # probabilities of cells
    pasted: float  # pixels that differ beyond the first two, as a part of those of both masks together
    #: detections with a lower score than this above the least possible one may be missing
    margin: float
    alone: float  # detections that have no partner, as a part of all


#: of float32, and of float16, whose numbers have 11 bits: another box of two that overlap may be the better one
TOLERANCES = {False: Tolerance(0.01, 1e-4, 1e-4, 1e-3, 1e-4, 0), True: Tolerance(1.0, 0.02, 0.1, 0.05, 0.05, 0.05)}


@dataclass
class Difference:
    """Holds how far two lists of detections of an image are apart; numbers are the largest of all pairs."""

    name: str
    numbers: tuple[int, int]  # detections, ours and the other's
    alone: int  # detections, not at the threshold, that have no partner
    boxes: float
    scores: float
    masks: float | None
    pasted: float | None

    def too_large(self, tolerance: Tolerance) -> list[str]:
        """Return what is not within the tolerance, by name."""
        parts = [name for name in ('boxes', 'scores', 'masks', 'pasted') if getattr(self, name) is not None]
        wrong = [name for name in parts if not getattr(self, name) <= getattr(tolerance, name)]  # NaN is wrong, too
        return ['detections'] * (self.alone > tolerance.alone * max(self.numbers)) + wrong


def model_finds(model: Any, sample: dict) -> Found:
    """Detect with the model itself.

    Args:
        model: a detector in evaluation mode.
        sample: of the test pipeline.
    """
    with torch.no_grad():
        data = model.data_preprocessor(pseudo_collate([sample]), False)
        own = model(**data, mode='predict')[0].pred_instances
        if 'masks' not in own:
            return Found(own.bboxes, own.scores, own.labels)
        maps = model.extract_feat(data['inputs'])
        factor = own.bboxes.new_tensor(sample['data_samples'].scale_factor).repeat(2)
        logits = model.roi_head._mask_forward(maps, bbox2roi([own.bboxes * factor]))['mask_preds']
    column = torch.zeros_like(own.labels) if model.roi_head.mask_head.class_agnostic else own.labels
    masks = logits[torch.arange(len(column), device=column.device), column].sigmoid()
    pasted = own.masks if own.masks.dtype == torch.bool else own.masks >= 128
    return Found(own.bboxes, own.scores, own.labels, masks, pasted)


def exported_finds(run: Run, image: Tensor, sample: DetDataSample, threshold: float) -> Found:
    """Detect with an exported model, and paste its masks.

    Args:
        run: of :func:`.load_exported`.
        image: (H, W, 3), as the graph takes it.
        sample: with ``scale_factor`` and ``ori_shape``.
        threshold: least probability of a mask's pixel.
    """
    with torch.no_grad():
        boxes, scores, labels, *rest = (part.cpu() for part in run(image))
    boxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
    if not rest:
        return Found(boxes, scores, labels)
    height, width = sample.ori_shape[:2]
    pasted = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for whole, mask, box in zip(pasted, rest[0], boxes):
        part, (top, left) = paste_mask(mask, box, height, width)
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part >= threshold
    return Found(boxes, scores, labels, rest[0], pasted)


def compare(name: str, ours: Found, theirs: Found, cfg: dict, margin: float) -> Difference:
    """Pair the detections of two models in an image, and say how far they are apart.

    Args:
        name: of the image.
        ours, theirs: on any device.
        cfg: ``score_thr`` and ``max_per_img``: near where a list ends, detections may have no partner.
        margin: as of :class:`Tolerance`.
    """
    ours, theirs = ours.cpu(), theirs.cpu()
    cost = (ours.boxes[:, None] - theirs.boxes).abs().amax(-1) + (ours.scores[:, None] - theirs.scores).abs() * 100
    cost = cost.nan_to_num(WRONG).clamp(max=WRONG) + (ours.labels[:, None] != theirs.labels) * WRONG
    rows, columns = (torch.from_numpy(part) for part in linear_sum_assignment(cost.numpy()))
    # Two detections far from each other are no pair: each is alone.
    kept = cost[rows, columns] < 20
    rows, columns = rows[kept], columns[kept]
    alone = 0
    for own, paired in ((ours, rows), (theirs, columns)):
        full = len(own.scores) == cfg['max_per_img']
        least = max(cfg['score_thr'], float(own.scores.min()) if full else 0.0) + margin
        left = torch.ones(len(own.scores), dtype=torch.bool)
        left[paired] = False
        alone += int((left & ~(own.scores < least)).sum())

    def largest(part: str) -> float:
        one, other = getattr(ours, part)[rows], getattr(theirs, part)[columns]
        return float((one - other).abs().max()) if one.numel() else 0.0

    masks = pasted = None
    if ours.pasted is not None and theirs.pasted is not None:
        masks = largest('masks')
        one, other = ours.pasted[rows].flatten(1), theirs.pasted[columns].flatten(1)
        parts = ((one ^ other).sum(1) - SPARED).clamp(min=0) / (one | other).sum(1).clamp(min=1)
        pasted = float(parts.max()) if len(parts) else 0.0
    return Difference(
        name, (len(ours.scores), len(theirs.scores)), alone, largest('boxes'), largest('scores'), masks, pasted
    )


def table(differences: Sequence[Difference], tolerance: Tolerance) -> str:
    """The differences of all images, and what is allowed, as a table of text."""
    head = ['image', 'detections', 'ours', 'alone', 'boxes (px)', 'scores', 'masks', 'pasted']
    rows = [
        [
            one.name,
            one.numbers[1],
            one.numbers[0],
            one.alone,
            *('' if value is None else f'{value:.1g}' for value in (one.boxes, one.scores, one.masks, one.pasted)),
        ]
        for one in differences
    ]
    limits: list[Any] = [
        'allowed',
        '',
        '',
        f'{tolerance.alone:.0%}',
        tolerance.boxes,
        tolerance.scores,
        tolerance.masks,
        tolerance.pasted,
    ]
    return AsciiTable([head, *rows, limits]).table
