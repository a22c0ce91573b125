"""From arrays to what the model takes."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData

from mmdet.registry import TRANSFORMS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import autocast_box_type

from .base import DetTransform


@TRANSFORMS.register_module()
class PackDetInputs(DetTransform):
    """Packs an image and its objects into what the model takes; the last transform of a pipeline.

    Args:
        meta_keys: what the sample knows of the image; keys that are not there are left out.

    Raises:
        ValueError: a box x1, y1, x2, y2 with a number that is none, beyond 2^21 pixels, or with x2 < x1 or y2 < y1.

    Example:
        In a test pipeline, where no image is flipped::

            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = (
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
            'flip',
            'flip_direction',
        ),
    ) -> None:
        self.meta_keys = tuple(meta_keys)

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Pack ``img``, a (H, W, C) or (H, W) array, and the objects.

        Args:
            results: ``img``; ``gt_bboxes`` (N, 4) in its pixels, and what else of ``gt_bboxes_labels``,
                ``gt_ignore_flags`` and ``gt_masks`` is there; ``proposals`` (K, 4) and ``proposals_scores`` (K,), for a
                detector that makes none itself; ``gt_seg_map`` (H, W), for a head of one's own.

        Returns:
            ``inputs``, the image as a (C, H, W) tensor of its dtype, and ``data_samples``, a DetDataSample: objects are
            in ``gt_instances``, those with an ignore flag in ``ignored_instances``, which are empty without objects;
            proposals in ``proposals``, with bboxes and scores; a map of classes in ``gt_sem_seg``, as (1, H, W).
        """
        image = results['img']
        if image.ndim == 2:
            image = image[..., None]
        sample = DetDataSample(metainfo={key: results[key] for key in self.meta_keys if key in results})
        sample.gt_instances, sample.ignored_instances = InstanceData(), InstanceData()
        if 'proposals' in results:
            found = dict(bboxes=results['proposals'], scores=results['proposals_scores'])
            sample.proposals = InstanceData(**{key: torch.as_tensor(value) for key, value in found.items()})
        if 'gt_seg_map' in results:
            sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(results['gt_seg_map'][None].copy()))
        objects = [len(results[key]) for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_masks') if key in results]
        if 'gt_bboxes' in results:
            _check_boxes(results)
        if objects:
            ignored = results.get('gt_ignore_flags', np.zeros(objects[0], dtype=bool)).astype(bool)
            sample.gt_instances = self._instances(results, np.flatnonzero(~ignored))
            sample.ignored_instances = self._instances(results, np.flatnonzero(ignored))
        return dict(inputs=torch.from_numpy(_planes(image)), data_samples=sample)

    @staticmethod
    def _instances(results: dict, kept: np.ndarray) -> InstanceData:
        instances = InstanceData()
        if 'gt_bboxes' in results:
            instances.bboxes = results['gt_bboxes'][kept].tensor.float()
        if 'gt_bboxes_labels' in results:
            instances.labels = torch.from_numpy(results['gt_bboxes_labels'][kept])
        if 'gt_masks' in results:
            instances.masks = results['gt_masks'][kept]
        return instances


def _planes(image: np.ndarray) -> np.ndarray:
    """An image (H, W, C) as (C, H, W), contiguous."""
    if (
        image.dtype in (np.uint8, np.float32)
        and image.shape[2] == 3
        and image.flags.c_contiguous
        and min(image.shape) > 1
    ):
        planes = np.empty((3, *image.shape[:2]), dtype=image.dtype)
        cv2.split(image, list(planes))  # several times as fast as NumPy
        return planes
    # a copy where NumPy calls a flipped image of one pixel contiguous
    return np.array(image.transpose(2, 0, 1), order='C', copy=True if min(image.shape) == 1 else None)


def _check_boxes(results: dict) -> None:
    boxes = results['gt_bboxes'].numpy().reshape(-1, 4)
    good = (np.abs(boxes) <= 2**21).all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1)
    if not good.all():
        raise ValueError(
            f'image {results.get("img_path")}: the pipeline has made the box '
            f'{boxes[~good][0].tolist()} of it; boxes must be x1 <= x2, y1 <= y2 in pixels'
        )
