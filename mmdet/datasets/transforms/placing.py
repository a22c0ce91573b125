"""An image as a part of a larger one, a part of it that holds its objects well, and any affine map of it."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms.utils import cache_randomness

from mmdet.mmdetection.arguments import ArgumentError
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes, autocast_box_type
from mmdet.structures.mask import BitmapMasks

from .base import DetTransform, record_homography
from .crop import keep_objects


@TRANSFORMS.register_module()
class Expand(DetTransform):
    """Puts the image somewhere in a larger one of one colour, so that objects are smaller (SSD, Liu et al., ECCV 2016).

    Args:
        mean: the colour.
        to_rgb: ``mean`` is in the order RGB, the image in the order BGR.
        ratio_range: (least, greatest) factor of the sides.
        seg_ignore_label: of the new part of ``gt_seg_map``.
        prob: probability.

    Example:
        In a pipeline, before a resize to one size::

            dict(type='Expand', mean=[123.675, 116.28, 103.53], to_rgb=True, ratio_range=(1, 4))
    """

    def __init__(
        self,
        mean: Sequence[float] = (0, 0, 0),
        to_rgb: bool = True,
        ratio_range: Sequence[float] = (1, 4),
        seg_ignore_label: int | None = None,
        prob: float = 0.5,
    ) -> None:
        self.mean = tuple(mean)[::-1] if to_rgb else tuple(mean)
        self.to_rgb = to_rgb
        least, most = ratio_range
        self.ratio_range = (least, most)
        self.seg_ignore_label = seg_ignore_label
        self.prob = prob

    @cache_randomness
    def _random_prob(self) -> float:
        return np.random.uniform(0, 1)

    @cache_randomness
    def _random_ratio(self) -> float:
        return np.random.uniform(*self.ratio_range)

    @cache_randomness
    def _random_left_top(self, ratio: float, h: int, w: int) -> tuple[int, int]:
        left = int(np.random.uniform(0, w * ratio - w))
        return left, int(np.random.uniform(0, h * ratio - h))

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Enlarge ``img`` (H, W, 3), ``gt_bboxes``, ``gt_masks`` and ``gt_seg_map``, those that are there.

        Raises:
            ValueError: a ``gt_seg_map`` without ``seg_ignore_label``.
        """
        if self._random_prob() > self.prob:
            return results
        image = results['img']
        h, w = image.shape[:2]
        ratio = self._random_ratio()
        left, top = self._random_left_top(ratio, h, w)
        height, width = int(h * ratio), int(w * ratio)
        inside = np.s_[top : top + h, left : left + w]
        larger = np.empty((height, width, *image.shape[2:]), image.dtype)
        larger[...] = self.mean
        larger[inside] = image
        results['img'], results['img_shape'] = larger, (height, width)
        record_homography(results, [[1, 0, left], [0, 1, top], [0, 0, 1]])
        if 'gt_bboxes' in results:
            results['gt_bboxes'].translate_([left, top])
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].expand(height, width, top, left)
        if 'gt_seg_map' in results:
            if self.seg_ignore_label is None:
                raise ValueError('Expand: seg_ignore_label is needed with gt_seg_map, got None')
            classes = np.full((height, width), self.seg_ignore_label, results['gt_seg_map'].dtype)
            classes[inside] = results['gt_seg_map']
            results['gt_seg_map'] = classes
        return results


@TRANSFORMS.register_module()
class MinIoURandomCrop(DetTransform):
    """Cuts out a part of the image that each object's box overlaps enough (SSD, Liu et al., ECCV 2016, sec. 3.6).

    Objects whose centre is not in the part are left out.

    Args:
        min_ious: what of is drawn, besides 'the whole image' and 'any part': the least intersection over union of the
            part and every box.
        min_crop_size: least side of the part, as a part of the image's; one side is at most twice the other.
        bbox_clip_border: move the corners of the boxes into the part.

    Example:
        In a pipeline, before a resize to one size::

            dict(type='MinIoURandomCrop', min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3)
    """

    #: parts that are tried before another overlap is drawn
    TRIALS = 50

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        bbox_clip_border: bool = True,
    ) -> None:
        self.min_ious = tuple(min_ious)
        self.sample_mode = (1, *min_ious, 0)
        self.min_crop_size = min_crop_size
        self.bbox_clip_border = bbox_clip_border

    @cache_randomness
    def _random_mode(self) -> float:
        return np.random.choice(self.sample_mode)

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Crop ``img`` (H, W, 3), and ``gt_bboxes``, ``gt_masks`` and ``gt_seg_map``, those that are there."""
        boxes = results['gt_bboxes']
        while True:
            least = self._random_mode()
            if least == 1:
                return results
            for _ in range(self.TRIALS):
                part = self._draw_part(*results['img'].shape[:2])
                if part is None:
                    continue
                own = HorizontalBoxes(part[None].astype(np.float32))
                if len(boxes) and boxes.overlaps(own, boxes).min() < least:
                    continue
                x, y = boxes.centers.unbind(-1)
                kept = ((x > part[0]) & (y > part[1]) & (x < part[2]) & (y < part[3])).numpy()
                if len(boxes) == 0 or kept.any():
                    return self._crop(results, part, kept)

    def _draw_part(self, h: int, w: int) -> np.ndarray | None:
        """Corners x1, y1, x2, y2 of a part of an image, or None for one that is too narrow, or empty."""
        draw = np.random.uniform
        width, height = draw(self.min_crop_size * w, w), draw(self.min_crop_size * h, h)
        if not 0.5 <= height / width <= 2:
            return None
        # numpy's uniform(a) is between a and 1, as mmdetection calls it: nothing is lost but a pixel at the border
        left, top = draw(w - width), draw(h - height)
        part = np.array([int(left), int(top), int(left + width), int(top + height)])
        return None if part[2] == part[0] or part[3] == part[1] else part

    def _crop(self, results: dict, part: np.ndarray, kept: np.ndarray) -> dict:
        x1, y1, x2, y2 = part
        for key in {'img', 'gt_seg_map'} & set(results):
            results[key] = results[key][y1:y2, x1:x2]
        results['img_shape'] = results['img'].shape[:2]
        record_homography(results, [[1, 0, -x1], [0, 1, -y1], [0, 0, 1]])
        keep_objects(results, kept)
        results['gt_bboxes'].translate_([-x1, -y1])
        if self.bbox_clip_border:
            results['gt_bboxes'].clip_((y2 - y1, x2 - x1))
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].crop(part)
        return results


@TRANSFORMS.register_module()
class RandomAffine(DetTransform):
    """Turns, scales, shears and moves the image.

    Args:
        max_rotate_degree: at most so far to either side, in degrees.
        max_translate_ratio: at most so far, as a part of the sides.
        scaling_ratio_range: (least, greatest) factor of the sides.
        max_shear_degree: at most so far to either side, in degrees, along each axis.
        border: (width, height) in pixels by which the image grows at either side; below 0 it shrinks.
        border_val: colour around the image, in the image's order.
        bbox_clip_border: move the corners of the boxes into the image; boxes around what is turned are larger than the
            objects.

    Example:
        In a pipeline::

            dict(type='RandomAffine', scaling_ratio_range=(0.8, 1.2), max_rotate_degree=5)
    """

    def __init__(
        self,
        max_rotate_degree: float = 10.0,
        max_translate_ratio: float = 0.1,
        scaling_ratio_range: Sequence[float] = (0.5, 1.5),
        max_shear_degree: float = 2.0,
        border: Sequence[int] = (0, 0),
        border_val: Sequence[int] = (114, 114, 114),
        bbox_clip_border: bool = True,
    ) -> None:
        if not 0 <= max_translate_ratio <= 1:
            raise ArgumentError(f'RandomAffine: max_translate_ratio must be from 0 to 1, got {max_translate_ratio}')
        least, most = scaling_ratio_range
        if not 0 < least <= most:
            raise ArgumentError(
                f'RandomAffine: scaling_ratio_range must be (least, greatest), above 0, got {(least, most)}'
            )
        self.max_rotate_degree = max_rotate_degree
        self.max_translate_ratio = max_translate_ratio
        self.scaling_ratio_range = (least, most)
        self.max_shear_degree = max_shear_degree
        self.border = tuple(border)
        self.border_val = tuple(border_val)
        self.bbox_clip_border = bbox_clip_border

    @cache_randomness
    def _get_random_homography_matrix(self, height: int, width: int) -> np.ndarray:
        """The map of pixels, (3, 3): scaling, then turning, shearing and moving."""
        draw = np.random.uniform
        angle = math.radians(draw(-self.max_rotate_degree, self.max_rotate_degree))
        scale = draw(*self.scaling_ratio_range)
        x, y = (math.radians(draw(-self.max_shear_degree, self.max_shear_degree)) for _ in range(2))
        right, down = (draw(-self.max_translate_ratio, self.max_translate_ratio) * side for side in (width, height))
        parts = [
            [[1, 0, right], [0, 1, down], [0, 0, 1]],
            [[1, math.tan(x), 0], [math.tan(y), 1, 0], [0, 0, 1]],
            [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]],
            [[scale, 0, 0], [0, scale, 0], [0, 0, 1]],
        ]
        move, shear, turn, grow = (np.array(part, dtype=np.float32) for part in parts)
        return move @ shear @ turn @ grow

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Map ``img`` (H, W, 3), and ``gt_bboxes`` and ``gt_masks``, where they are there.

        Objects whose box, or whose mask, has nothing in the image are left out.

        Raises:
            ValueError: ``gt_masks`` that are polygons.
        """
        height, width = (own + 2 * more for own, more in zip(results['img'].shape, self.border[::-1]))
        matrix = self._get_random_homography_matrix(height, width)
        results['img'] = cv2.warpPerspective(results['img'], matrix, (width, height), borderValue=self.border_val)
        results['img_shape'] = results['img'].shape[:2]
        record_homography(results, matrix.tolist())
        if 'gt_seg_map' in results:
            raise ValueError('RandomAffine: gt_seg_map cannot be mapped; leave out LoadAnnotations(with_seg=True)')
        if 'gt_bboxes' not in results or not len(results['gt_bboxes']):
            if 'gt_masks' in results:
                results['gt_masks'] = BitmapMasks([], height, width)
            return results
        boxes = results['gt_bboxes']
        boxes.project_(torch.from_numpy(matrix))
        if self.bbox_clip_border:
            boxes.clip_((height, width))
        inside = boxes.is_inside((height, width)).numpy()
        if 'gt_masks' in results:
            if not isinstance(results['gt_masks'], BitmapMasks):
                raise ValueError('RandomAffine: gt_masks must be bitmaps: LoadAnnotations(poly2mask=True)')
            warped = [
                cv2.warpPerspective(mask, matrix, (width, height), flags=cv2.INTER_NEAREST)
                for mask in results['gt_masks'].masks
            ]
            results['gt_masks'] = BitmapMasks(warped, height, width)
            inside &= results['gt_masks'].areas > 0
        keep_objects(results, inside)
        return results
