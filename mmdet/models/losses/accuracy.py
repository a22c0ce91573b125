"""Accuracy of a classification."""

from torch import Tensor


def accuracy(pred: Tensor, target: Tensor, topk: int = 1) -> Tensor:
    """Compute the part of the samples whose class is among the ``topk`` highest scores.

    Args:
        pred: scores (N, C).
        target: classes (N,).
        topk: number of scores.

    Returns:
        (1,), in percent; 0 for N = 0.
    """
    if not len(pred):
        return pred.new_zeros(1)
    hit = pred.topk(topk, dim=1).indices == target[:, None]
    return hit.any(1).float().mean()[None] * 100
