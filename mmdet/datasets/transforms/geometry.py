"""Resizing, flipping and padding of images, boxes and masks together."""

import mmcv.transforms

from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import BaseBoxes, autocast_box_type

from .base import record_homography


@TRANSFORMS.register_module()
class Resize(mmcv.transforms.Resize):
    """Resizes the image, and boxes and masks with it; mmcv's transform, with masks.

    Args:
        scale: (long, short) sides at most with ``keep_ratio``, else (width, height), in pixels.
        scale_factor: instead of ``scale``.
        keep_ratio: keep the ratio of the sides: the largest image within ``scale``.
        clip_object_border: move the corners of boxes into the image.
        backend, interpolation: as in mmcv.

    Example:
        In a pipeline, for a short side of 800 pixels, or less where the long one would exceed 1333::

            dict(type='Resize', scale=(1333, 800), keep_ratio=True)
    """

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Resize ``img`` (H, W, 3), ``gt_bboxes`` (N, 4) and ``gt_masks``, those that are there.

        Returns:
            ``results`` with these, ``img_shape`` (height, width), ``scale_factor`` (width, height) to the image before,
            ``scale`` and ``keep_ratio``.
        """
        results = super().transform(results)
        self._resize_masks(results)
        self._record_homography_matrix(results)
        return results

    def _record_homography_matrix(self, results: dict) -> None:
        width, height = results['scale_factor']
        record_homography(results, [[width, 0, 0], [0, height, 0], [0, 0, 1]])

    def _resize_masks(self, results: dict) -> None:
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].resize(results['img_shape'][:2])

    def _resize_bboxes(self, results: dict) -> None:
        if 'gt_bboxes' in results:
            results['gt_bboxes'].rescale_(results['scale_factor'])
            if self.clip_object_border:
                results['gt_bboxes'].clip_(results['img_shape'])


class _ByResize(mmcv.transforms.BaseTransform):
    """For transforms that draw a scale and hand it to :class:`Resize`."""

    def __init__(self, *args, resize_type: str = 'Resize', **kwargs) -> None:
        super().__init__(*args, resize_type=resize_type, **kwargs)
        self.resize = TRANSFORMS.build(dict(self.resize_cfg, scale=0))


@TRANSFORMS.register_module()
class RandomChoiceResize(_ByResize, mmcv.transforms.RandomChoiceResize):
    """Resizes each image to one of several scales, drawn at random; further arguments are :class:`Resize`'s.

    Args:
        scales: (long, short) sides in pixels, as :class:`Resize`'s ``scale``.
        resize_type: the transform that resizes.

    Example:
        In a pipeline, for a short side of 640 to 800 pixels::

            dict(
                type='RandomChoiceResize', scales=[(1333, side) for side in range(640, 801, 32)], keep_ratio=True
            )
    """


@TRANSFORMS.register_module()
class RandomResize(_ByResize, mmcv.transforms.RandomResize):
    """Resizes each image to a scale drawn between two, or to ``scale`` times a factor of ``ratio_range``.

    Args:
        scale: two scales, or one with ``ratio_range``, each (long, short) in pixels as of :class:`Resize`.
        ratio_range: (least, greatest) factor of both sides.
        resize_type: the transform that resizes; further arguments are its own.

    Example:
        Large-scale jittering in a pipeline, with a crop after it::

            dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True)
    """


@TRANSFORMS.register_module()
class RandomFlip(mmcv.transforms.RandomFlip):
    """Flips the image, boxes and masks with some probability; mmcv's transform, with masks.

    It adds ``flip`` (bool) and ``flip_direction`` (None where it is not flipped). Boxes stay x1 <= x2, y1 <= y2.

    Args:
        prob: probability, or one for each direction.
        direction: 'horizontal', 'vertical', 'diagonal' or a list of them.

    Example:
        In a pipeline::

            dict(type='RandomFlip', prob=0.5)
    """

    @autocast_box_type()
    def _flip(self, results: dict) -> None:
        super()._flip(results)
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].flip(results['flip_direction'])
        self._record_homography_matrix(results)

    def _record_homography_matrix(self, results: dict) -> None:
        height, width = results['img'].shape[:2]
        x, y = (results['flip_direction'] != kept for kept in ('vertical', 'horizontal'))
        record_homography(results, [[1 - 2 * x, 0, x * width], [0, 1 - 2 * y, y * height], [0, 0, 1]])

    def _flip_bbox(self, bboxes: BaseBoxes, img_shape: tuple[int, int], direction: str) -> BaseBoxes:
        bboxes.flip_(img_shape, direction)
        return bboxes


@TRANSFORMS.register_module()
class Pad(mmcv.transforms.Pad):
    """Pads the image, and the masks with it, at the right and below; mmcv's transform, with masks.

    The model pads batches itself (:class:`.DetDataPreprocessor`), so pipelines rarely need it. Boxes need no change.

    Args:
        size: (width, height) in pixels.
        size_divisor: multiples of this for both sides, instead of ``size``.
        pad_to_square: to the longer side.
        pad_val, padding_mode: as in mmcv; masks are padded with 0, or ``pad_val['masks']``.
    """

    def transform(self, results: dict) -> dict:
        """Pad ``img`` (H, W, 3) and ``gt_masks``, where they are there.

        Returns:
            ``results`` with these, ``img_shape`` (height, width) and ``pad_shape`` (height, width, 3), which are those
            of the padded image.
        """
        results = super().transform(results)
        self._pad_masks(results)
        return results

    def _pad_masks(self, results: dict) -> None:
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].pad(results['pad_shape'][:2], self.pad_val.get('masks', 0))
