"""Cropping, and leaving out objects."""

from collections.abc import Sequence

import numpy as np
from mmcv.transforms.utils import cache_randomness

from mmdet.mmdetection.arguments import ArgumentError
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import autocast_box_type

from .base import DetTransform, record_homography

CROP_TYPES = ('relative_range', 'relative', 'absolute', 'absolute_range')
#: of which there is one for each object, the last of data sets of one's own
OBJECT_KEYS = ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags', 'gt_masks', 'gt_instances_ids')


def keep_objects(results: dict, kept: np.ndarray) -> None:
    """Leave the objects of an image for which ``kept`` (N,) bool is True, or the places ``kept`` (K,) int, in place."""
    places = np.flatnonzero(kept) if kept.dtype == bool else kept
    for key in OBJECT_KEYS:
        if key in results:
            results[key] = results[key][places]


@TRANSFORMS.register_module()
class RandomCrop(DetTransform):
    """Cuts a random part out of the image, with the objects that reach into it.

    Args:
        crop_size: (width, height); of ``absolute_range`` (least, greatest) of both sides.
        crop_type: ``absolute`` in pixels; ``relative`` as parts of the image's sides; ``relative_range`` draws parts
            between ``crop_size`` and 1; ``absolute_range`` draws each side between the two, in pixels. A part is at
            most as large as the image.
        allow_negative_crop: an image without objects may come out; else the transform returns None, and the data set
            draws another image.
        recompute_bbox: boxes around what is left of the masks.
        bbox_clip_border: move the corners of the boxes into the part.

    Raises:
        ValueError: a ``crop_type`` there is not; a ``crop_size`` that is not two positive whole numbers, or numbers of
            at most 1 where it is relative; a least size above the greatest.

    Example:
        In a pipeline, after Resize: parts of 384 to 600 pixels a side::

            dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600))
    """

    def __init__(
        self,
        crop_size: Sequence[int | float],
        crop_type: str = 'absolute',
        allow_negative_crop: bool = False,
        recompute_bbox: bool = False,
        bbox_clip_border: bool = True,
    ) -> None:
        if crop_type not in CROP_TYPES:
            raise ArgumentError(f'RandomCrop: Invalid crop_type {crop_type!r}; must be one of {CROP_TYPES}')
        relative = crop_type.startswith('relative')
        largest = 1 if relative else float('inf')
        numbers = (int, float) if relative else int
        if len(crop_size) != 2 or not all(isinstance(one, numbers) and 0 < one <= largest for one in crop_size):
            kind = 'positive numbers of at most 1' if relative else 'positive whole numbers'
            raise ArgumentError(
                f'RandomCrop: crop_size must be two {kind}, got {crop_size!r} with crop_type={crop_type!r}'
            )
        if crop_type == 'absolute_range' and crop_size[0] > crop_size[1]:
            raise ArgumentError(f'RandomCrop: crop_size of absolute_range must be (least, greatest), got {crop_size!r}')
        self.crop_size = tuple(crop_size)
        self.crop_type = crop_type
        self.allow_negative_crop = allow_negative_crop
        self.recompute_bbox = recompute_bbox
        self.bbox_clip_border = bbox_clip_border

    @cache_randomness
    def _get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the part of an image (height, width)."""
        height, width = image_size
        first, second = self.crop_size
        if self.crop_type == 'absolute':
            return int(min(second, height)), int(min(first, width))
        if self.crop_type == 'absolute_range':
            # The height is drawn before the width, in mmdetection too: a seed gives the same crops.
            return (
                np.random.randint(int(min(height, first)), int(min(height, second)) + 1),
                np.random.randint(int(min(width, first)), int(min(width, second)) + 1),
            )
        if self.crop_type == 'relative_range':
            least = np.asarray(self.crop_size, dtype=np.float32)
            second, first = least + np.random.rand(2) * (1 - least)
        return int(height * second + 0.5), int(width * first + 0.5)

    @cache_randomness
    def _rand_offset(self, margin: tuple[int, int]) -> tuple[int, int]:
        """Top and left of the part, of what is free below and at the right of it."""
        return np.random.randint(0, margin[0] + 1), np.random.randint(0, margin[1] + 1)

    @autocast_box_type()
    def transform(self, results: dict) -> dict | None:
        """Crop ``img`` (H, W, 3) and, where they are there, the objects.

        Args:
            results: ``img``; ``gt_bboxes`` (N, 4) x1, y1, x2, y2 in its pixels, ``gt_bboxes_labels``,
                ``gt_ignore_flags``, ``gt_masks``; ``gt_seg_map`` (H, W).

        Returns:
            ``results`` with these, and ``img_shape``, of the part; None without objects, unless
            ``allow_negative_crop``.
        """
        crop_size = self._get_crop_size(results['img'].shape[:2])
        return self._crop_data(results, crop_size, self.allow_negative_crop)

    def _crop_data(self, results: dict, crop_size: tuple[int, int], allow_negative_crop: bool) -> dict | None:
        """Cut a part of ``crop_size`` (height, width) out of an image and its objects."""
        height, width = crop_size
        margin = [max(side - own, 0) for side, own in zip(results['img'].shape, crop_size)]
        top, left = self._rand_offset((margin[0], margin[1]))
        for key in {'img', 'gt_seg_map'} & set(results):
            results[key] = results[key][top : top + height, left : left + width]
        results['img_shape'] = height, width = results['img'].shape[:2]
        record_homography(results, [[1, 0, -left], [0, 1, -top], [0, 0, 1]])
        if 'gt_bboxes' not in results:
            return results
        boxes = results['gt_bboxes']
        boxes.translate_([-left, -top])
        if self.bbox_clip_border:
            boxes.clip_((height, width))
        inside = boxes.is_inside((height, width)).numpy()
        if not inside.any() and not allow_negative_crop:
            return None
        keep_objects(results, inside)
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].crop(np.array([left, top, left + width, top + height]))
            if self.recompute_bbox:
                results['gt_bboxes'] = results['gt_masks'].get_bboxes(type(boxes))
        return results


@TRANSFORMS.register_module()
class FilterAnnotations(DetTransform):
    """Leaves out objects whose box or mask is small.

    Args:
        min_gt_bbox_wh: objects whose box has no greater (width, height) in pixels are left out, with ``by_box``.
        min_gt_mask_area: objects whose mask has fewer pixels are left out, with ``by_mask``.
        by_box, by_mask: which of both decides; at least one, and with both an object must pass both.
        keep_empty: True: where no object is left the transform returns None and another image is drawn; False: the
            image stays, without objects (so in mmdetection, whatever the name says).

    Raises:
        ValueError: neither ``by_box`` nor ``by_mask``.

    Example:
        In a pipeline, after RandomCrop, without objects of which less than 20 pixels are left::

            dict(type='FilterAnnotations', by_box=False, by_mask=True, min_gt_mask_area=20)
    """

    def __init__(
        self,
        min_gt_bbox_wh: Sequence[float] = (1.0, 1.0),
        min_gt_mask_area: int = 1,
        by_box: bool = True,
        by_mask: bool = False,
        keep_empty: bool = True,
    ) -> None:
        if not (by_box or by_mask):
            raise ValueError('FilterAnnotations: one of by_box and by_mask must be True')
        self.min_gt_bbox_wh = tuple(min_gt_bbox_wh)
        self.min_gt_mask_area = min_gt_mask_area
        self.by_box = by_box
        self.by_mask = by_mask
        self.keep_empty = keep_empty

    @autocast_box_type()
    def transform(self, results: dict) -> dict | None:
        """Leave out objects of ``results``: ``gt_bboxes`` (N, 4), ``gt_masks`` and what belongs to them.

        Returns:
            ``results``, or None where no object is left and ``keep_empty`` is True.
        """
        boxes = results['gt_bboxes']
        kept = np.ones(len(boxes), dtype=bool)
        if self.by_box:
            kept &= (boxes.widths > self.min_gt_bbox_wh[0]).numpy() & (boxes.heights > self.min_gt_bbox_wh[1]).numpy()
        if self.by_mask:
            kept &= results['gt_masks'].areas >= self.min_gt_mask_area
        if not kept.any() and self.keep_empty:
            return None
        keep_objects(results, kept)
        return results
