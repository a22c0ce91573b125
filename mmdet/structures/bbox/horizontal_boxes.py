"""Boxes with sides along the image's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base_boxes import BaseBoxes
from .bbox_overlaps import bbox_overlaps
from .box_type import register_box


@register_box('hbox')
class HorizontalBoxes(BaseBoxes):
    """Holds boxes x1, y1, x2, y2 in pixels, (..., 4); ``results['gt_bboxes']`` of transforms is of this type.

    Args:
        data, dtype, device, clone: as of :class:`.BaseBoxes`.
        in_mode: 'xyxy', or 'cxcywh' of centre x, centre y, width, height; None is 'xyxy'.

    Raises:
        ValueError: another mode. AssertionError: data of another shape.

    Example:
        >>> boxes = HorizontalBoxes([[2.0, 2.0, 6.0, 4.0]])
        >>> boxes.areas
        tensor([8.])
        >>> boxes.flip_((10, 20))
        >>> boxes.tensor
        tensor([[14.,  2., 18.,  4.]])
    """

    box_dim = 4

    def __init__(
        self,
        data: Tensor | np.ndarray | Any,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        clone: bool = True,
        in_mode: str | None = None,
    ) -> None:
        super().__init__(data, dtype, device, clone)
        if in_mode not in (None, 'xyxy', 'cxcywh'):
            raise ValueError(f"HorizontalBoxes: in_mode must be 'xyxy' or 'cxcywh', got {in_mode!r}")
        if in_mode == 'cxcywh':
            self.tensor = self.cxcywh_to_xyxy(self.tensor)

    @staticmethod
    def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
        """Return x1, y1, x2, y2 (..., 4) of centre x, centre y, width, height (..., 4)."""
        centre, size = boxes.split(2, -1)
        return torch.cat([centre - size / 2, centre + size / 2], -1)

    @staticmethod
    def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
        """Return centre x, centre y, width, height (..., 4) of x1, y1, x2, y2 (..., 4)."""
        low, high = boxes.split(2, -1)
        return torch.cat([(low + high) / 2, high - low], -1)

    @property
    def cxcywh(self) -> Tensor:
        """Return centre x, centre y, width, height (..., 4)."""
        return self.xyxy_to_cxcywh(self.tensor)

    @property
    def centers(self) -> Tensor:
        """Return the boxes' centres (..., 2)."""
        return (self.tensor[..., :2] + self.tensor[..., 2:]) / 2

    @property
    def areas(self) -> Tensor:
        """Return the boxes' areas (...)."""
        return self.widths * self.heights

    @property
    def widths(self) -> Tensor:
        """Return the boxes' widths (...)."""
        return self.tensor[..., 2] - self.tensor[..., 0]

    @property
    def heights(self) -> Tensor:
        """Return the boxes' heights (...)."""
        return self.tensor[..., 3] - self.tensor[..., 1]

    def flip_(self, img_shape: tuple[int, int], direction: str = 'horizontal') -> None:
        """Mirror the boxes in an image (height, width), in place.

        Args:
            img_shape: of the image.
            direction: 'horizontal', 'vertical' or 'diagonal', which is both.

        Raises:
            ValueError: another direction.
        """
        if direction not in ('horizontal', 'vertical', 'diagonal'):
            raise ValueError(f"flip_: direction must be 'horizontal', 'vertical' or 'diagonal', got {direction!r}")
        x1, y1, x2, y2 = self.tensor.unbind(-1)
        height, width = img_shape[:2]
        if direction != 'vertical':
            x1, x2 = width - x2, width - x1
        if direction != 'horizontal':
            y1, y2 = height - y2, height - y1
        self.tensor.copy_(torch.stack([x1, y1, x2, y2], -1))

    def translate_(self, distances: tuple[float, float]) -> None:
        """Move the boxes by (x, y), in place."""
        self.tensor = self.tensor + self.tensor.new_tensor(distances).repeat(2)

    def clip_(self, img_shape: tuple[int, int]) -> None:
        """Move the boxes' corners into an image (height, width), in place."""
        self.tensor[..., 0::2].clamp_(0, img_shape[1])
        self.tensor[..., 1::2].clamp_(0, img_shape[0])

    def rotate_(self, center: tuple[float, float], angle: float) -> None:
        """Turn the boxes' corners around a centre (x, y) by degrees, clockwise, and take the boxes around them."""
        x, y = center
        turn = np.deg2rad(angle)
        cos, sin = np.cos(turn), np.sin(turn)
        self.project_(np.array([[cos, -sin, x - x * cos + y * sin], [sin, cos, y - x * sin - y * cos], [0, 0, 1]]))

    def project_(self, homography_matrix: Tensor | np.ndarray) -> None:
        """Map the boxes' corners by a homography (3, 3), and take the boxes around them, in place."""
        matrix = torch.as_tensor(homography_matrix).to(self.tensor)
        x1, y1, x2, y2 = self.tensor.unbind(-1)
        one = torch.ones_like(x1)
        corners = torch.stack([torch.stack([x, y, one], -1) for x in (x1, x2) for y in (y1, y2)], -2) @ matrix.T
        corners = corners[..., :2] / corners[..., 2:]
        self.tensor = torch.cat([corners.amin(-2), corners.amax(-2)], -1)

    def rescale_(self, scale_factor: Sequence[float]) -> None:
        """Multiply the coordinates by (x, y), in place, as when the image is resized."""
        self.tensor = self.tensor * self.tensor.new_tensor(scale_factor).repeat(2)

    def resize_(self, scale_factor: tuple[float, float]) -> None:
        """Multiply widths and heights by (x, y), in place; the centres stay."""
        centre, size = self.cxcywh.split(2, -1)
        self.tensor = self.cxcywh_to_xyxy(torch.cat([centre, size * size.new_tensor(scale_factor)], -1))

    def is_inside(self, img_shape: tuple[int, int], all_inside: bool = False, allowed_border: int = 0) -> Tensor:
        """Tell which boxes are in an image.

        Args:
            img_shape: (height, width) of the image.
            all_inside: a box must lie in it wholly; else it must reach into it.
            allowed_border: pixels around the image that count as the image.

        Returns:
            (...) bool.
        """
        x1, y1, x2, y2 = self.tensor.unbind(-1)
        bottom, right, border = img_shape[0] + allowed_border, img_shape[1] + allowed_border, -allowed_border
        if all_inside:
            return (x1 >= border) & (y1 >= border) & (x2 < right) & (y2 < bottom)
        return (x1 < right) & (y1 < bottom) & (x2 > border) & (y2 > border)

    def find_inside_points(self, points: Tensor, is_aligned: bool = False) -> Tensor:
        """Tell which points lie in which boxes.

        Args:
            points: (M, 2) of x, y.
            is_aligned: look for the i-th point in the i-th box alone; then M = N.

        Returns:
            (M, N) bool, or (M,) if aligned.
        """
        assert self.tensor.dim() == 2, f'find_inside_points: boxes must be (N, 4), got {tuple(self.shape)}'
        low, high = self.tensor.split(2, -1)
        if not is_aligned:
            points = points[:, None]
        return ((points >= low) & (points <= high)).all(-1)

    @staticmethod
    def overlaps(
        boxes1: BaseBoxes, boxes2: BaseBoxes, mode: str = 'iou', is_aligned: bool = False, eps: float = 1e-6
    ) -> Tensor:
        """Return the overlaps of boxes, as :func:`.bbox_overlaps`."""
        one, two = (boxes.convert_to('hbox').tensor for boxes in (boxes1, boxes2))
        return bbox_overlaps(one, two, mode, is_aligned, eps)

    @staticmethod
    def from_instance_masks(masks: Any) -> 'HorizontalBoxes':
        """Return the boxes around N masks, :class:`.BitmapMasks` or :class:`.PolygonMasks`; zeros of an empty one."""
        return masks.get_bboxes()
