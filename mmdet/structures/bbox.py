"""Functions on boxes: (N, 4) tensors of x1, y1, x2, y2 in pixels, corners not offset by one."""
import torch
from torch import Tensor


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, mode: str = 'iou', is_aligned: bool = False,
                  eps: float = 1e-6) -> Tensor:
    """Overlap of boxes.

    Args:
        bboxes1: (M, 4). bboxes2: (N, 4).
        mode: 'iou', 'iof' (intersection over the area of ``bboxes1``) or 'giou' (Rezatofighi et al., CVPR 2019).
        is_aligned: pair the i-th with the i-th instead of each with each; then M = N.
        eps: least denominator.

    Returns:
        (M, N), or (M,) if aligned.
    """
    if mode not in ('iou', 'iof', 'giou'):
        raise ValueError(f"bbox_overlaps: mode must be 'iou', 'iof' or 'giou', got {mode!r}")
    area1 = (bboxes1[:, 2:] - bboxes1[:, :2]).prod(1)
    area2 = (bboxes2[:, 2:] - bboxes2[:, :2]).prod(1)
    if not is_aligned:
        bboxes1, area1 = bboxes1[:, None], area1[:, None]
    inner = (torch.minimum(bboxes1[..., 2:], bboxes2[..., 2:]) -
             torch.maximum(bboxes1[..., :2], bboxes2[..., :2])).clamp(min=0).prod(-1)
    union = area1.expand_as(inner) if mode == 'iof' else area1 + area2 - inner
    union = union.clamp(min=eps)
    overlap = inner / union
    if mode != 'giou':
        return overlap
    hull = (torch.maximum(bboxes1[..., 2:], bboxes2[..., 2:]) -
            torch.minimum(bboxes1[..., :2], bboxes2[..., :2])).clamp(min=0).prod(-1).clamp(min=eps)
    return overlap - (hull - union) / hull


def bbox2roi(bbox_list: list[Tensor]) -> Tensor:
    """Boxes of several images as one (sum N_i, 5) tensor of image index, x1, y1, x2, y2."""
    return torch.cat([torch.cat([b.new_full((len(b), 1), i), b[:, :4]], 1) for i, b in enumerate(bbox_list)])


def clip_boxes(bboxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) with their corners moved into an image of ``shape`` (height, width)."""
    x1, y1, x2, y2 = bboxes.unbind(-1)
    height, width = shape
    return torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], -1)
