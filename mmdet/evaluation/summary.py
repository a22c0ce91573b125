"""The numbers of an evaluation."""

import copy
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from pycocotools.cocoeval import COCOeval


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


def summarize(evaluation: COCOeval, max_dets: Sequence[int]) -> OrderedDict:
    """Compute the twelve numbers of an accumulated evaluation, 0 to 1; -1 where there is no object to find.

    Args:
        evaluation: after ``accumulate()``.
        max_dets: numbers of detections an image, ascending; AP is that with the largest.

    Returns:
        ``mAP`` over all IoU thresholds, ``mAP_50``, ``mAP_75``; ``mAP_s``, ``mAP_m``, ``mAP_l`` of small (below 32^2
        pixels), medium (to 96^2) and large objects; ``AR@N`` for each N of ``max_dets``; ``AR_s@N``, ``AR_m@N``,
        ``AR_l@N`` with the largest.
    """
    thresholds = evaluation.params.iouThrs

    def mean(values):
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0

    def precision(threshold=None, area=0):
        values = evaluation.eval['precision'][:, :, :, area, -1]
        if threshold is not None:
            values = values[np.isclose(thresholds, threshold)]
        return mean(values)

    def recall(area=0, detections=-1):
        return mean(evaluation.eval['recall'][:, :, area, detections])

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


def of_class(evaluation: COCOeval, number: int) -> COCOeval:
    """Return an accumulated evaluation of one class alone, the one with this position in ``params.catIds``."""
    part = copy.copy(evaluation)
    part.eval = dict(
        precision=evaluation.eval['precision'][:, :, number : number + 1],
        recall=evaluation.eval['recall'][:, number : number + 1],
    )
    return part
