"""Objects of one image in another."""

from typing import Any

import numpy as np
from mmcv.transforms.utils import cache_randomness

from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import autocast_box_type
from mmdet.structures.mask import BitmapMasks

from .base import DetTransform
from .crop import keep_objects


@TRANSFORMS.register_module()
class CopyPaste(DetTransform):
    """Pastes objects of another image, of the same size, onto this one (Ghiasi et al., Simple Copy-Paste, CVPR 2021).

    It stands in the pipeline of a :class:`.MultiImageMixDataset`, which gives it the other image.

    Args:
        max_num_pasted: less than so many objects are pasted.
        bbox_occluded_thr: an object of this image stays if no side of the box around what is still seen of it moved by
            more pixels,
        mask_occluded_thr: or if more pixels of it are still seen.
        selected: a random part of the other image's objects; False: all.
        paste_by_box: of data without masks the boxes are pasted.

    Example:
        In a config, where both images are cut or padded to 1024 x 1024 pixels before::

            train_dataset = dict(
                type='MultiImageMixDataset',
                dataset=dict(type='CocoDataset', pipeline=load_resize_crop_and_pad),
                pipeline=[dict(type='CopyPaste', max_num_pasted=100), dict(type='PackDetInputs')],
            )
    """

    def __init__(
        self,
        max_num_pasted: int = 100,
        bbox_occluded_thr: int = 10,
        mask_occluded_thr: int = 300,
        selected: bool = True,
        paste_by_box: bool = False,
    ) -> None:
        self.max_num_pasted = max_num_pasted
        self.bbox_occluded_thr = bbox_occluded_thr
        self.mask_occluded_thr = mask_occluded_thr
        self.selected = selected
        self.paste_by_box = paste_by_box

    @cache_randomness
    def get_indexes(self, dataset: Any) -> int:
        """Draw the other image's place in a data set."""
        return np.random.randint(0, len(dataset))

    @cache_randomness
    def _get_selected_inds(self, num_bboxes: int) -> np.ndarray:
        number = np.random.randint(0, min(num_bboxes + 1, self.max_num_pasted))
        return np.random.choice(num_bboxes, size=number, replace=False)

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Paste objects of ``mix_results[0]`` onto ``results``: ``img``, ``gt_bboxes``, ``gt_masks`` and labels.

        Raises:
            ValueError: not one other image; one of another size; no masks, without ``paste_by_box``.
        """
        others = results.get('mix_results') or []
        if len(others) != 1:
            raise ValueError(
                f'CopyPaste: needs one other image, got {len(others)}; it stands in the pipeline of a '
                'MultiImageMixDataset'
            )
        other = dict(others[0])
        if other['img'].shape != results['img'].shape:
            sizes = ' and '.join(' x '.join(map(str, one['img'].shape[1::-1])) for one in (results, other))
            raise ValueError(
                f'CopyPaste: both images must have one size, got {sizes} (width x height); let the inner pipeline end '
                'with a crop and a Pad to one size'
            )
        for one in (results, other):
            one['gt_masks'] = self._masks(one)
        if self.selected:
            keep_objects(other, self._get_selected_inds(len(other['gt_bboxes'])))
        if len(other['gt_bboxes']):
            self._copy_paste(results, other)
        if self.paste_by_box:
            results.pop('gt_masks')
        return results

    def _masks(self, results: dict) -> BitmapMasks:
        if not self.paste_by_box:
            masks = results.get('gt_masks')
            if not isinstance(masks, BitmapMasks):
                raise ValueError(
                    'CopyPaste: needs masks as bitmaps, LoadAnnotations(with_mask=True); of data without masks it '
                    'pastes boxes with paste_by_box=True'
                )
            return masks
        height, width = results['img'].shape[:2]
        masks = np.zeros((len(results['gt_bboxes']), height, width), dtype=np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, results['gt_bboxes'].numpy().astype(int)):
            mask[y1:y2, x1:x2] = 1
        return BitmapMasks(masks, height, width)

    def _copy_paste(self, results: dict, other: dict) -> None:
        pasted = other['gt_masks'].masks.any(0)
        boxes = results['gt_bboxes']
        masks = BitmapMasks(np.where(pasted, 0, results['gt_masks'].masks), *pasted.shape)
        seen = masks.get_bboxes(type(boxes))
        moved = (seen.tensor - boxes.tensor).abs()
        kept = (moved <= self.bbox_occluded_thr).all(1).numpy() | (masks.areas > self.mask_occluded_thr)
        results.update(gt_masks=masks, gt_bboxes=seen)
        keep_objects(results, kept)
        results['img'] = np.where(pasted[..., None], other['img'], results['img'])
        results['gt_bboxes'] = boxes.cat([results['gt_bboxes'], other['gt_bboxes']])
        results['gt_masks'] = BitmapMasks.cat([results['gt_masks'], other['gt_masks']])
        for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
            results[key] = np.concatenate([results[key], other[key]])
