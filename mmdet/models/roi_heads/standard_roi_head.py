"""The second stage: from proposals to classes, boxes and masks."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F

from mmdet.models.task_modules import SamplingResult
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import bbox2roi

from .single_level_roi_extractor import SingleRoIExtractor


@MODELS.register_module()
class StandardRoIHead(BaseModule):
    """Turns proposals into detections: a box head and, for Mask R-CNN, a mask head on the features of regions.

    Args:
        bbox_roi_extractor, bbox_head: parts of the box branch.
        mask_roi_extractor, mask_head: of the mask branch, or None; without its own extractor it takes the box branch's
            features.
        shared_head: layers between the extractors and both heads, or None.
        train_cfg: ``assigner`` and ``sampler``, which choose the regions to train with, ``mask_size`` (side of the
            masks' targets), ``pos_weight``.
        test_cfg: ``score_thr``, ``nms``, ``max_per_img``, ``mask_thr_binary``.

    Example:
        In the config of Faster R-CNN::

            roi_head=dict(
                type='StandardRoIHead',
                bbox_roi_extractor=dict(
                    type='SingleRoIExtractor',
                    roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
                    out_channels=256,
                    featmap_strides=[4, 8, 16, 32],
                ),
                bbox_head=dict(type='Shared2FCBBoxHead', num_classes=80),
            )
    """

    def __init__(
        self,
        bbox_roi_extractor: dict,
        bbox_head: dict,
        mask_roi_extractor: dict | None = None,
        mask_head: dict | None = None,
        shared_head: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.train_cfg = train_cfg or {}
        self.test_cfg = test_cfg or {}
        self.bbox_roi_extractor = MODELS.build(bbox_roi_extractor)
        self.bbox_head = MODELS.build(bbox_head)
        self.mask_roi_extractor = None
        self.mask_head: Any = None
        if mask_head is not None:
            self.mask_head = MODELS.build(mask_head)
            if mask_roi_extractor is not None:
                self.mask_roi_extractor = MODELS.build(mask_roi_extractor)
        self.shared_head = None if shared_head is None else MODELS.build(shared_head)
        if train_cfg is not None:
            self.bbox_assigner = TASK_UTILS.build(train_cfg['assigner'])
            self.bbox_sampler = TASK_UTILS.build(train_cfg['sampler'], default_args=dict(context=self))

    @property
    def with_mask(self) -> bool:
        """Return whether there is a mask head."""
        return self.mask_head is not None

    def loss(
        self, x: Sequence[Tensor], rpn_results_list: list[InstanceData], batch_data_samples: list
    ) -> dict[str, Tensor]:
        """Sample regions from the proposals and compute the heads' losses.

        Args:
            x: maps (N, C, H_i, W_i).
            rpn_results_list: proposals of each image, ``bboxes`` (K, 4) in pixels of the network's input.
            batch_data_samples: N DetDataSamples with ``gt_instances``, and with masks for a mask head.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``acc`` (percent) of :meth:`.ConvFCBBoxHead.loss`; with a mask head
            ``loss_mask``.
        """
        sampled = [
            self._sample(proposals, sample, [level[i : i + 1] for level in x])
            for i, (proposals, sample) in enumerate(zip(rpn_results_list, batch_data_samples))
        ]
        rois = bbox2roi([result.priors for result in sampled])
        feats = self._features(self.bbox_roi_extractor, x, rois)
        outputs = self.bbox_head(feats)
        targets = self.bbox_head.get_targets(sampled, self.train_cfg.get('pos_weight', -1))
        losses = self.bbox_head.loss(*outputs, targets)
        if self.with_mask:
            masks = [sample.gt_instances.masks for sample in batch_data_samples]
            targets = self.mask_head.get_targets(sampled, masks, self.train_cfg['mask_size'])
            if self.mask_roi_extractor is None:
                positive = [F.pad(torch.ones_like(result.pos_inds), (0, len(result.neg_inds))) for result in sampled]
                logits = self.mask_head(feats[torch.cat(positive).bool()])
            else:
                logits = self._mask_forward(x, bbox2roi([result.pos_priors for result in sampled]))
            labels = torch.cat([result.pos_gt_labels for result in sampled])
            losses.update(self.mask_head.loss(logits, targets, labels))
        return losses

    def _sample(self, proposals: InstanceData, sample, feats: list[Tensor]) -> SamplingResult:
        priors = InstanceData(priors=proposals.bboxes)
        assigned = self.bbox_assigner.assign(priors, sample.gt_instances, sample.get('ignored_instances'))
        return self.bbox_sampler.sample(assigned, priors, sample.gt_instances, feats=feats)

    def _features(self, extractor: SingleRoIExtractor, x: Sequence[Tensor], rois: Tensor) -> Tensor:
        feats = extractor(x[: extractor.num_inputs], rois)
        return feats if self.shared_head is None else self.shared_head(feats)

    def _bbox_forward(self, x: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        return self.bbox_head(self._features(self.bbox_roi_extractor, x, rois))

    def _mask_forward(self, x: Sequence[Tensor], rois: Tensor) -> Tensor:
        return self.mask_head(self._features(self.mask_roi_extractor or self.bbox_roi_extractor, x, rois))

    @torch.no_grad()
    def predict(
        self, x: Sequence[Tensor], rpn_results_list: list[InstanceData], batch_data_samples: list, rescale: bool = False
    ) -> list[InstanceData]:
        """Detect the objects of each image.

        Args:
            x: maps (N, C, H_i, W_i).
            rpn_results_list: proposals of each image, ``bboxes`` (K, 4) in pixels of the network's input.
            batch_data_samples: N DetDataSamples, whose metainfo has ``img_shape``, ``ori_shape`` and ``scale_factor``.
            rescale: in pixels of the original images instead of the network's input.

        Returns:
            For each image bboxes (K, 4), scores (K,), falling, labels (K,) and, with a mask head, masks (K, H, W) bool
            of the whole image.
        """
        metas = [sample.metainfo for sample in batch_data_samples]
        rois = bbox2roi([proposals.bboxes for proposals in rpn_results_list])
        numbers = [len(proposals) for proposals in rpn_results_list]
        scores, deltas = self._bbox_forward(x, rois)
        # Masks are read where the boxes lie in the input; the boxes are scaled afterwards.
        results = [
            self.bbox_head.predict(*parts, meta, self.test_cfg, rescale and not self.with_mask)
            for *parts, meta in zip(rois.split(numbers), scores.split(numbers), deltas.split(numbers), metas)
        ]
        if self.with_mask:
            self._predict_masks(x, results, metas, rescale)
        return results

    def _predict_masks(self, x, results, metas, rescale) -> None:
        rois = bbox2roi([result.bboxes for result in results]).cpu()  # where to look and where to paste: one transfer
        numbers = [len(result) for result in results]
        logits = self._mask_forward(x, rois).split(numbers)
        for result, own, boxes, meta in zip(results, logits, rois[:, 1:].split(numbers), metas):
            shape = meta['img_shape'][:2]
            if rescale:
                boxes = boxes / boxes.new_tensor(meta['scale_factor']).repeat(2)
                result.bboxes = boxes.to(result.bboxes.device, non_blocking=True)
                shape = meta['ori_shape'][:2]
            result.masks = self.mask_head.predict(own, boxes, result.labels, shape, self.test_cfg['mask_thr_binary'])
