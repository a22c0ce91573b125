"""Non-maximum suppression."""
import torch
from torch import Tensor
from torchvision.ops import batched_nms as torchvision_batched_nms


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: dict) -> tuple[Tensor, Tensor]:
    """NMS among the boxes that share an index.

    Args:
        boxes: (N, 4). scores: (N,). idxs: (N,), of a class or a level.
        nms_cfg: ``type='nms'``, ``iou_threshold``; ``class_agnostic=True`` suppresses across indices.

    Returns:
        detections (K, 5), box and score by falling score; the kept indices (K,).

    Raises:
        ValueError: a type of NMS there is not.
    """
    if nms_cfg.get('type', 'nms') != 'nms':
        raise ValueError(f"nms.type must be 'nms', got {nms_cfg['type']!r}")
    if nms_cfg.get('class_agnostic', False):
        idxs = torch.zeros_like(idxs)
    keep = torchvision_batched_nms(boxes.float(), scores.float(), idxs, nms_cfg['iou_threshold'])
    return torch.cat([boxes[keep], scores[keep, None]], 1), keep


def multiclass_nms(bboxes: Tensor, scores: Tensor, score_thr: float, nms_cfg: dict, max_num: int = -1
                   ) -> tuple[Tensor, Tensor]:
    """NMS class by class.

    Args:
        bboxes: (N, 4), or (N, C * 4) with a box for each class.
        scores: (N, C + 1); the last column is background.
        score_thr: lower scores are left out.
        max_num: detections kept; negative: all.

    Returns:
        detections (K, 5), box and score by falling score; classes (K,).
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
