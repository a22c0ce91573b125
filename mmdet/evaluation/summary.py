"""The numbers of an evaluation."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from .scoring import Scores


def item_names(max_dets: Sequence[int]) -> list[str]:
    """Return the names of the numbers of :func:`summarize`, in their order."""
    return [
        'mAP',
        'mAP_50',
        'mAP_75',
        'mAP_s',
        'mAP_m',
        'mAP_l',
        *(f'AR@{number}' for number in max_dets),
        *(f'AR_{size}@{max_dets[-1]}' for size in 'sml'),
    ]


def summarize(scores: Scores, max_dets: Sequence[int]) -> OrderedDict:
    """Compute the twelve numbers of an evaluation, 0 to 1; -1 where there is no object to find.

    Args:
        scores: with all three areas.
        max_dets: numbers of detections an image, ascending; AP is that with the largest.

    Returns:
        ``mAP`` over all IoU thresholds, ``mAP_50``, ``mAP_75``; ``mAP_s``, ``mAP_m``, ``mAP_l`` of small (below 32^2
        pixels), medium (to 96^2) and large objects; ``AR@N`` for each N of ``max_dets``; ``AR_s@N``, ``AR_m@N``,
        ``AR_l@N`` with the largest.
    """

    def mean(values):
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0

    def precision(threshold=None, area=0):
        values = scores.precision[:, :, :, area, -1]
        if threshold is not None:
            values = values[np.isclose(scores.iou_thrs, threshold)]
        return mean(values)

    def recall(area=0, detections=-1):
        return mean(scores.recall[:, :, area, detections])

    return OrderedDict(
        zip(
            item_names(max_dets),
            [
                precision(),
                precision(0.5),
                precision(0.75),
                *(precision(area=i) for i in (1, 2, 3)),
                *(recall(detections=i) for i in range(len(max_dets))),
                *(recall(area=i) for i in (1, 2, 3)),
            ],
        )
    )


def of_class(scores: Scores, number: int) -> Scores:
    """Return the scores of one class alone, the one at this position."""
    own = slice(number, number + 1)
    return scores._replace(precision=scores.precision[:, :, own], recall=scores.recall[:, own])
