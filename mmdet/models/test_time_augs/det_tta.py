"""Test-time augmentation: an image is flipped and resized, and what is found in each version is put together."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet.models.layers import batched_nms
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes, bbox_overlaps


@MODELS.register_module()
class DetTTAModel(BaseTTAModel):
    """Puts the detections of several versions of an image together, by NMS; masks vote.

    A mask is where at least half of the votes of all versions are that overlap its box: those of the same class whose
    boxes NMS would suppress, each with its score as its weight.

    Args:
        tta_cfg: ``nms``, as of :func:`.batched_nms`, and ``max_per_img``.
        module: the detector, or its config.
        data_preprocessor: not needed, the detector has its own.

    Example:
        In a config, for ``mmdet test --tta``; without them ``--tta`` adds a flip and takes these values::

            tta_model = dict(
                type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
            )
            tta_pipeline = [
                dict(type='LoadImageFromFile'),
                dict(
                    type='TestTimeAug',
                    transforms=[
                        [dict(type='Resize', scale=scale, keep_ratio=True) for scale in ((1333, 800), (1333, 640))],
                        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
                        [dict(type='PackDetInputs')],
                    ],
                ),
            ]
    """

    module: Any

    def __init__(self, tta_cfg: dict | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.tta_cfg: dict = dict(dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100), **(tta_cfg or {}))

    def merge_aug_bboxes(
        self, aug_bboxes: Sequence[Tensor], aug_scores: Sequence[Tensor], img_metas: Sequence[dict]
    ) -> tuple[Tensor, Tensor]:
        """Bring boxes back to the image as it is stored.

        Args:
            aug_bboxes: of each version (K, 4), in pixels of the stored image, flipped where the version is.
            aug_scores: of each version (K,).
            img_metas: of each version, with ``ori_shape``, ``flip`` and ``flip_direction``.

        Returns:
            All boxes (N, 4), not flipped, and all scores (N,).
        """
        recovered = []
        for boxes, meta in zip(aug_bboxes, img_metas):
            own = HorizontalBoxes(boxes.clone())
            if meta.get('flip'):
                own.flip_(meta['ori_shape'][:2], meta['flip_direction'])
            recovered.append(own.tensor)
        return torch.cat(recovered), torch.cat(list(aug_scores))

    def merge_preds(self, data_samples_list: Sequence[Sequence[DetDataSample]]) -> list[DetDataSample]:
        """Put the versions of each image together.

        Args:
            data_samples_list: of each image its versions, with ``pred_instances``.

        Returns:
            For each image the sample of a version that is not flipped, where there is one, with ``pred_instances``.
        """
        return [self._merge_single_sample(versions) for versions in data_samples_list]

    def _merge_single_sample(self, versions: Sequence[DetDataSample]) -> DetDataSample:
        found = [version.pred_instances for version in versions]
        metas = [version.metainfo for version in versions]
        boxes, scores = self.merge_aug_bboxes([one.bboxes for one in found], [one.scores for one in found], metas)
        labels = torch.cat([one.labels for one in found])
        detections, kept = batched_nms(boxes, scores, labels, self.tta_cfg['nms'])
        most = self.tta_cfg['max_per_img']
        detections, kept = detections[:most], kept[:most]
        results = InstanceData(bboxes=detections[:, :4], scores=detections[:, 4], labels=labels[kept])
        if 'masks' in found[0]:
            masks = torch.cat([_unflip(one.masks, meta) for one, meta in zip(found, metas)])
            results.masks = self._vote(masks, boxes, scores, labels, kept)
        plain = next((version for version in versions if not version.metainfo.get('flip')), versions[0])
        plain.pred_instances = results
        return plain

    def _vote(self, masks: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
        """The masks (K, H, W) of the detections ``kept`` (K,), of all N."""
        overlap = bbox_overlaps(boxes[kept], boxes) > self.tta_cfg['nms'].get('iou_threshold', 0.5)
        voters = overlap & (labels[kept, None] == labels)
        voters[torch.arange(len(kept)), kept] = True
        voted = []
        for voter in voters:
            weights = scores[voter] / scores[voter].sum()
            mean = torch.einsum('n,nhw->hw', weights, masks[voter].to(weights))
            voted.append(mean >= 0.5 if masks.dtype == torch.bool else mean.round().to(masks.dtype))
        return torch.stack(voted) if voted else masks[:0]


def _unflip(masks: Tensor, meta: dict) -> Tensor:
    """Masks (K, H, W) of the image as it is stored."""
    if not meta.get('flip'):
        return masks
    dims = dict(horizontal=(2,), vertical=(1,), diagonal=(1, 2))[meta['flip_direction']]
    return masks.flip(dims)
