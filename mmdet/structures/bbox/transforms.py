"""Functions on boxes: tensors (..., 4) of x1, y1, x2, y2 in pixels, corners not offset by one, or BaseBoxes."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .base_boxes import BaseBoxes
from .horizontal_boxes import HorizontalBoxes

Boxes = TypeVar('Boxes', Tensor, BaseBoxes)


def get_box_tensor(boxes: Tensor | BaseBoxes) -> Tensor:
    """Return the tensor of boxes; a tensor is returned as it is."""
    return boxes.tensor if isinstance(boxes, BaseBoxes) else boxes


def scale_boxes(boxes: Boxes, scale_factor: Sequence[float]) -> Boxes:
    """Return boxes whose coordinates are multiplied by ``scale_factor`` (of x, of y); tensors (..., 4 * C) too."""
    if isinstance(boxes, BaseBoxes):
        boxes.rescale_(scale_factor)
        return boxes
    return boxes * boxes.new_tensor(scale_factor).repeat(boxes.shape[-1] // 2)


def bbox_project(
    bboxes: Tensor | np.ndarray, homography_matrix: Tensor | np.ndarray, img_shape: tuple[int, int] | None = None
) -> Tensor | np.ndarray:
    """Map boxes (N, 4) by a homography (3, 3): the boxes around their mapped corners.

    Args:
        img_shape: (height, width) of the image into which their corners are then moved.

    Returns:
        (N, 4), an array for an array.
    """
    boxes = HorizontalBoxes(bboxes, dtype=torch.float32)
    boxes.project_(homography_matrix)
    if img_shape is not None:
        boxes.clip_(img_shape)
    return boxes.tensor if isinstance(bboxes, Tensor) else boxes.numpy()


def bbox2roi(bbox_list: Sequence[Tensor | BaseBoxes]) -> Tensor:
    """Put the boxes of several images into one tensor of regions.

    Args:
        bbox_list: for each image (N_i, 4), x1, y1, x2, y2; a fifth column, as of a score, is left out.

    Returns:
        (sum N_i, 5) of image index, x1, y1, x2, y2.

    Raises:
        ValueError: boxes of fewer than four numbers.
    """
    tensors = [get_box_tensor(boxes) for boxes in bbox_list]
    for boxes in tensors:
        if boxes.dim() != 2 or boxes.shape[1] not in (4, 5):
            raise ValueError(f'bbox2roi: boxes must be (N, 4) x1, y1, x2, y2, got {tuple(boxes.shape)}')
    return torch.cat([torch.cat([b.new_full((len(b), 1), i), b[:, :4]], 1) for i, b in enumerate(tensors)])


def clip_boxes(bboxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return boxes (..., 4) with their corners moved into an image of ``shape`` (height, width)."""
    x1, y1, x2, y2 = bboxes.unbind(-1)
    height, width = shape
    return torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], -1)
