"""Recall of proposals without classes."""

from collections.abc import Sequence

import numpy as np
import torch

from mmdet.structures.bbox import bbox_overlaps


def average_recalls(
    objects: Sequence[np.ndarray], proposals: Sequence[np.ndarray], numbers: Sequence[int], iou_thrs: np.ndarray
) -> list[float]:
    """Compute the part of the objects that proposals find, averaged over IoU thresholds.

    Of an image's objects and proposals the pair of the highest IoU is taken, then of those that are left the next, and
    so on; an object is found if its pair's IoU is at least the threshold.

    Args:
        objects: of each image (K, 4), x1, y1, x2, y2.
        proposals: of each image (P, 4), the best first.
        numbers: of proposals an image that count.
        iou_thrs: thresholds.

    Returns:
        A recall from 0 to 1 for each of ``numbers``; nan without objects.
    """
    recalls, pairs = [], []
    for boxes, found in zip(objects, proposals):
        one, two = (torch.from_numpy(np.asarray(each, dtype=np.float64).reshape(-1, 4)) for each in (boxes, found))
        pairs.append(bbox_overlaps(one, two).numpy())
    for number in numbers:
        best: list[float] = []
        for every in pairs:
            overlaps = every[:, :number].copy()
            for _ in range(len(overlaps)):
                if not overlaps.shape[1]:
                    best.append(-1.0)
                    continue
                row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
                best.append(float(overlaps[row, column]))
                overlaps[row], overlaps[:, column] = -1, -1
        recalls.append(float((np.array(best)[:, None] >= iou_thrs).mean()) if best else float('nan'))
    return recalls
