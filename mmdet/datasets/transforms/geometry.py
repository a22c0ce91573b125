"""Resizing, flipping and padding of images, boxes and masks together."""

from collections.abc import Sequence

import mmcv.transforms
import numpy as np

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
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].resize(results['img_shape'][:2])
        return results

    def _resize_bboxes(self, results: dict) -> None:
        if 'gt_bboxes' in results:
            # In float32 throughout, as mmdetection scales them: the same boxes to the last bit.
            boxes = results['gt_bboxes'] * np.tile(np.float32(results['scale_factor']), 2)
            results['gt_bboxes'] = clip_boxes(boxes, results['img_shape']) if self.clip_object_border else boxes


def clip_boxes(boxes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Boxes (N, 4) with their corners moved into an image of ``shape`` (height, width)."""
    height, width = shape[:2]
    return np.clip(boxes, 0, np.array([width, height] * 2, dtype=np.float32))


class _ByResize(mmcv.transforms.BaseTransform):
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
