"""Resizing, flipping and padding of images, boxes and masks together."""
from typing import Optional, Sequence

import mmcv.transforms
import numpy as np
from mmcv.transforms import BaseTransform

from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class Resize(mmcv.transforms.Resize):
    """mmcv's, and the masks with it. Adds scale, scale_factor (width, height), img_shape, keep_ratio.

    Args:
        scale: (long, short) sides at most with ``keep_ratio``, else (width, height), in pixels.
        scale_factor: instead of ``scale``.
    """

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        if 'gt_bboxes' in results:
            results['gt_bboxes'] = results['gt_bboxes'].astype(np.float32)
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].resize(results['img_shape'][:2])
        return results


class _ByResize:
    """For transforms that draw a scale and hand it to :class:`Resize`."""

    def __init__(self, *args, resize_type: str = 'Resize', **kwargs) -> None:
        super().__init__(*args, resize_type=resize_type, **kwargs)
        self.resize = TRANSFORMS.build(dict(self.resize_cfg, scale=0))


@TRANSFORMS.register_module()
class RandomChoiceResize(_ByResize, mmcv.transforms.RandomChoiceResize):
    """Resize to one of ``scales``, drawn for each image; further arguments are :class:`Resize`'s."""


@TRANSFORMS.register_module()
class RandomResize(_ByResize, mmcv.transforms.RandomResize):
    """Resize to a scale drawn between two, or ``scale`` times a factor of ``ratio_range``."""


@TRANSFORMS.register_module()
class RandomFlip(mmcv.transforms.RandomFlip):
    """mmcv's, and the masks with it. Adds flip, flip_direction."""

    def _flip(self, results: dict) -> None:
        super()._flip(results)
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].flip(results['flip_direction'])


@TRANSFORMS.register_module()
class Pad(mmcv.transforms.Pad):
    """mmcv's, and the masks with it, at the right and below."""

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].pad(results['pad_shape'][:2])
        return results


@TRANSFORMS.register_module()
class FilterAnnotations(BaseTransform):
    """Leaves out boxes of less than ``min_gt_bbox_wh`` (width, height) pixels.

    Args:
        keep_empty: False: an image without boxes is drawn anew (the transform returns None).
    """

    def __init__(self, min_gt_bbox_wh: Sequence[float] = (1., 1.), keep_empty: bool = True) -> None:
        self.min_gt_bbox_wh = tuple(min_gt_bbox_wh)
        self.keep_empty = keep_empty

    def transform(self, results: dict) -> Optional[dict]:
        boxes = results['gt_bboxes']
        kept = (boxes[:, 2:] - boxes[:, :2] > self.min_gt_bbox_wh).all(1)
        if not kept.any() and not self.keep_empty:
            return None
        for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags', 'gt_masks'):
            if key in results:
                results[key] = results[key][kept]
        return results


