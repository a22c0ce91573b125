"""The second stage: from proposals to classes, boxes and masks."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F

from mmdet.models.task_modules.samplers import SamplingResult, sample_proposals
from mmdet.models.utils import unpack_gt_instances
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
        self.init_bbox_head(bbox_roi_extractor, bbox_head)
        self.mask_roi_extractor: Any = None
        self.mask_head: Any = None
        #: without an extractor of its own the mask head takes the box head's features
        self.share_roi_extractor = mask_roi_extractor is None
        if mask_head is not None:
            self.init_mask_head(mask_roi_extractor, mask_head)
        self.shared_head = None if shared_head is None else MODELS.build(shared_head)
        self.init_assigner_sampler()

    def init_bbox_head(self, bbox_roi_extractor: dict, bbox_head: dict) -> None:
        """Build the box branch from the configs of its parts."""
        self.bbox_roi_extractor = MODELS.build(bbox_roi_extractor)
        self.bbox_head = MODELS.build(bbox_head)

    def init_mask_head(self, mask_roi_extractor: dict | None, mask_head: dict) -> None:
        """Build the mask branch from the configs of its parts."""
        self.mask_head = MODELS.build(mask_head)
        self.mask_roi_extractor = (
            self.bbox_roi_extractor if mask_roi_extractor is None else MODELS.build(mask_roi_extractor)
        )

    def init_assigner_sampler(self) -> None:
        """Build what chooses the regions to train with, where ``train_cfg`` names it."""
        if self.train_cfg:
            self.bbox_assigner = TASK_UTILS.build(self.train_cfg['assigner'])
            self.bbox_sampler = TASK_UTILS.build(self.train_cfg['sampler'], default_args=dict(context=self))

    @property
    def with_bbox(self) -> bool:
        """Return True: there is a box head."""
        return self.bbox_head is not None

    @property
    def with_mask(self) -> bool:
        """Return whether there is a mask head."""
        return self.mask_head is not None

    @property
    def with_shared_head(self) -> bool:
        """Return whether there are layers between the extractors and both heads."""
        return self.shared_head is not None

    def forward(
        self, x: Sequence[Tensor], rpn_results_list: list[InstanceData], batch_data_samples: list | None = None
    ) -> tuple[Tensor, ...]:
        """Compute what the heads say of all proposals.

        Args:
            x: maps (N, C, H_i, W_i).
            rpn_results_list: proposals of each image, ``bboxes`` (K, 4) in pixels of the network's input.
            batch_data_samples: not used.

        Returns:
            Logits (R, num_classes + 1) and deltas (R, 4 * num_classes) of the box head; with a mask head its logits
            (R', num_classes, H, W) of the first 100 of all proposals.
        """
        rois = bbox2roi([proposals.bboxes for proposals in rpn_results_list])
        found = self._bbox_forward(x, rois)
        results = (found['cls_score'], found['bbox_pred'])
        return (*results, self._mask_forward(x, rois[:100])['mask_preds']) if self.with_mask else results

    # -- training -----------------------------------------------------------------------------------------------

    def loss(
        self, x: Sequence[Tensor], rpn_results_list: list[InstanceData], batch_data_samples: list
    ) -> dict[str, Tensor]:
        """Sample regions from the proposals and compute the heads' losses.

        Args:
            x: maps (N, C, H_i, W_i).
            rpn_results_list: proposals of each image, ``bboxes`` (K, 4) in pixels of the network's input.
            batch_data_samples: N DetDataSamples with ``gt_instances``, and with masks for a mask head.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``acc`` (percent) of :meth:`.BBoxHead.loss`; with a mask head ``loss_mask``.
        """
        objects, ignored, _ = unpack_gt_instances(batch_data_samples)
        sampled = sample_proposals(self.bbox_assigner, self.bbox_sampler, rpn_results_list, objects, ignored, x)
        found = self.bbox_loss(x, sampled)
        losses = dict(found['loss_bbox'])
        if self.with_mask:
            losses.update(self.mask_loss(x, sampled, found['bbox_feats'], objects)['loss_mask'])
        return losses

    def bbox_loss(self, x: Sequence[Tensor], sampling_results: list[SamplingResult]) -> dict[str, Any]:
        """Compute the box head's losses of the sampled regions.

        Args:
            x: maps (N, C, H_i, W_i).
            sampling_results: of each image, with boxes in pixels of the network's input.

        Returns:
            What :meth:`_bbox_forward` returns, and ``loss_bbox``, a dict of losses.
        """
        rois = bbox2roi([result.priors for result in sampling_results])
        found = self._bbox_forward(x, rois)
        target = self.bbox_head.loss_and_target(
            cls_score=found['cls_score'],
            bbox_pred=found['bbox_pred'],
            rois=rois,
            sampling_results=sampling_results,
            rcnn_train_cfg=self.train_cfg,
        )
        found.update(loss_bbox=target['loss_bbox'])
        return found

    def mask_loss(
        self,
        x: Sequence[Tensor],
        sampling_results: list[SamplingResult],
        bbox_feats: Tensor,
        batch_gt_instances: list[InstanceData],
    ) -> dict[str, Any]:
        """Compute the mask head's loss of the positive regions.

        Args:
            x: maps (N, C, H_i, W_i).
            sampling_results: of each image, with boxes in pixels of the network's input.
            bbox_feats: features of all sampled regions, for a mask head without an extractor of its own.
            batch_gt_instances: of each image, with ``masks``.

        Returns:
            What :meth:`_mask_forward` returns, and ``loss_mask``, a dict of losses.
        """
        if self.share_roi_extractor:
            positive = [
                F.pad(torch.ones(len(result.pos_priors), device=bbox_feats.device), (0, len(result.neg_priors)))
                for result in sampling_results
            ]
            found = self._mask_forward(x, pos_inds=torch.cat(positive).bool(), bbox_feats=bbox_feats)
        else:
            found = self._mask_forward(x, bbox2roi([result.pos_priors for result in sampling_results]))
        target = self.mask_head.loss_and_target(
            mask_preds=found['mask_preds'],
            sampling_results=sampling_results,
            batch_gt_instances=batch_gt_instances,
            rcnn_train_cfg=self.train_cfg,
        )
        found.update(loss_mask=target['loss_mask'])
        return found

    # -- both ---------------------------------------------------------------------------------------------------

    def _features(self, extractor: SingleRoIExtractor, x: Sequence[Tensor], rois: Tensor) -> Tensor:
        feats = extractor(x[: extractor.num_inputs], rois)
        return feats if self.shared_head is None else self.shared_head(feats)

    def _bbox_forward(self, x: Sequence[Tensor], rois: Tensor) -> dict[str, Any]:
        """``cls_score``, ``bbox_pred`` and ``bbox_feats`` of regions (R, 5)."""
        feats = self._features(self.bbox_roi_extractor, x, rois)
        scores, deltas = self.bbox_head(feats)
        return dict(cls_score=scores, bbox_pred=deltas, bbox_feats=feats)

    def _mask_forward(
        self,
        x: Sequence[Tensor],
        rois: Tensor | None = None,
        pos_inds: Tensor | None = None,
        bbox_feats: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``mask_preds`` and ``mask_feats`` of regions (R, 5), or of the ``pos_inds`` of the box head's features."""
        if rois is None:
            assert bbox_feats is not None
            feats = bbox_feats[pos_inds]
        else:
            feats = self._features(self.mask_roi_extractor, x, rois)
        return dict(mask_preds=self.mask_head(feats), mask_feats=feats)

    # -- detections ---------------------------------------------------------------------------------------------

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
        # Masks are read where the boxes lie in the input; the boxes are scaled afterwards.
        results = self.predict_bbox(x, metas, rpn_results_list, self.test_cfg, rescale and not self.with_mask)
        return self.predict_mask(x, metas, results, rescale) if self.with_mask else results

    def predict_bbox(
        self,
        x: Sequence[Tensor],
        batch_img_metas: list[dict],
        rpn_results_list: list[InstanceData],
        rcnn_test_cfg: dict,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Detect the objects of each image as boxes.

        Args:
            x: maps (N, C, H_i, W_i).
            batch_img_metas: of each image, with ``img_shape`` and, for ``rescale``, ``scale_factor``.
            rpn_results_list: proposals of each image, ``bboxes`` (K, 4) in pixels of the network's input.
            rcnn_test_cfg: as ``test_cfg``.
            rescale: in pixels of the original images instead of the network's input.

        Returns:
            What :meth:`.BBoxHead.predict_by_feat` returns.
        """
        numbers = [len(proposals.bboxes) for proposals in rpn_results_list]
        rois = bbox2roi([proposals.bboxes for proposals in rpn_results_list])
        found = self._bbox_forward(x, rois)
        deltas = found['bbox_pred']
        return self.bbox_head.predict_by_feat(
            rois=rois.split(numbers),
            cls_scores=found['cls_score'].split(numbers),
            bbox_preds=[None] * len(numbers) if deltas is None else deltas.split(numbers),
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=rcnn_test_cfg,
            rescale=rescale,
        )

    def predict_mask(
        self, x: Sequence[Tensor], batch_img_metas: list[dict], results_list: list[InstanceData], rescale: bool = False
    ) -> list[InstanceData]:
        """Draw the masks of all detections.

        Args:
            x: maps (N, C, H_i, W_i).
            batch_img_metas: of each image, with ``img_shape``, ``ori_shape`` and ``scale_factor``.
            results_list: of each image ``bboxes`` (K, 4) in pixels of the network's input, and ``labels`` (K,).
            rescale: in pixels of the original images, the boxes as well, instead of the network's input.

        Returns:
            What :meth:`.FCNMaskHead.predict_by_feat` returns.
        """
        numbers = [len(results) for results in results_list]
        found = self._mask_forward(x, bbox2roi([results.bboxes for results in results_list]))
        return self.mask_head.predict_by_feat(
            mask_preds=found['mask_preds'].split(numbers),
            results_list=results_list,
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=self.test_cfg,
            rescale=rescale,
        )
