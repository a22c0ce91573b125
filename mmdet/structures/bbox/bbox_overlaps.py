"""Overlaps of boxes."""

import torch
from torch import Tensor


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, mode: str = 'iou', is_aligned: bool = False, eps: float = 1e-6
) -> Tensor:
    """Compute overlaps of boxes x1, y1, x2, y2, both in the same unit.

    Args:
        bboxes1: (..., M, 4); the dimensions in front, if there are some, are those of ``bboxes2``.
        bboxes2: (..., N, 4).
        mode: 'iou', 'iof' (intersection over the area of ``bboxes1``) or 'giou' (Rezatofighi et al., CVPR 2019).
        is_aligned: pair the i-th with the i-th instead of each with each; then M = N.
        eps: least denominator.

    Returns:
        (..., M, N), or (..., M) if aligned; from 0 to 1, 'giou' from -1 to 1.

    Raises:
        AssertionError: another mode, or shapes that do not go together.

    Example:
        >>> import torch
        >>> bbox_overlaps(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[5.0, 0.0, 15.0, 10.0]]))
        tensor([[0.3333]])
    """
    assert mode in ('iou', 'iof', 'giou'), f"bbox_overlaps: mode must be 'iou', 'iof' or 'giou', got {mode!r}"
    same = slice(None, -1) if is_aligned else slice(None, -2)
    assert bboxes1.shape[-1] == bboxes2.shape[-1] == 4 and bboxes1.shape[same] == bboxes2.shape[same], (
        f'bbox_overlaps: boxes must be (..., M, 4) and (..., {"M" if is_aligned else "N"}, 4), got '
        f'{tuple(bboxes1.shape)} and {tuple(bboxes2.shape)}'
    )
    left1, top1, right1, bottom1 = (bboxes1 if is_aligned else bboxes1[..., None, :]).unbind(-1)
    left2, top2, right2, bottom2 = (bboxes2 if is_aligned else bboxes2[..., None, :, :]).unbind(-1)
    inner = (torch.minimum(right1, right2) - torch.maximum(left1, left2)).clamp(min=0) * (
        torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)
    ).clamp(min=0)
    area1, area2 = (right1 - left1) * (bottom1 - top1), (right2 - left2) * (bottom2 - top2)
    union = area1.expand_as(inner) if mode == 'iof' else area1 + area2 - inner
    union = union.clamp(min=eps)
    overlap = inner / union
    if mode != 'giou':
        return overlap
    hull = (
        (torch.maximum(right1, right2) - torch.minimum(left1, left2)).clamp(min=0)
        * (torch.maximum(bottom1, bottom2) - torch.minimum(top1, top2)).clamp(min=0)
    ).clamp(min=eps)
    return overlap - (hull - union) / hull
