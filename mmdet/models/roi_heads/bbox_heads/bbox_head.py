"""Class and box of a region."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from mmdet.mmdetection.arguments import accepts
from mmdet.models.layers import multiclass_nms
from mmdet.models.losses import accuracy
from mmdet.models.task_modules import SamplingResult
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import clip_boxes, scale_boxes


@MODELS.register_module()
@accepts(predict_box_type='hbox', reg_predictor_cfg=dict(type='Linear'), cls_predictor_cfg=dict(type='Linear'))
class BBoxHead(BaseModule):
    """Gives each region a class and a box straight from its features, without hidden layers, as the C4 models do.

    A loss of one's own as ``loss_cls`` can have ``custom_cls_channels`` set to True; then its
    ``get_cls_channels(num_classes)`` takes the place of ``num_classes + 1``. With ``custom_activation`` its
    ``get_activation(cls_score)`` and ``get_accuracy(cls_score, labels)`` take those of softmax and ``acc``.

    Args:
        with_avg_pool: the features are averaged first.
        with_cls, with_reg: give classes, and boxes.
        roi_feat_size, in_channels: side, in cells, and channels of the regions' features.
        num_classes: without background, which is the last of ``num_classes + 1`` logits.
        bbox_coder: turns deltas and regions into boxes.
        reg_class_agnostic: one box for all classes.
        reg_decoded_bbox: ``loss_bbox`` compares boxes, as IoU losses need it, instead of deltas.
        loss_cls, loss_bbox: of classes, and of the boxes of positive regions.

    Raises:
        ValueError: neither ``with_cls`` nor ``with_reg``.

    Example:
        In a config, behind ResNet's last stage as a shared head::

            bbox_head=dict(type='BBoxHead', with_avg_pool=True, in_channels=2048, roi_feat_size=7, num_classes=80)
    """

    def __init__(
        self,
        with_avg_pool: bool = False,
        with_cls: bool = True,
        with_reg: bool = True,
        roi_feat_size: int = 7,
        in_channels: int = 256,
        num_classes: int = 80,
        bbox_coder: dict = dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        reg_class_agnostic: bool = False,
        reg_decoded_bbox: bool = False,
        loss_cls: dict = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        loss_bbox: dict = dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
        init_cfg: dict | list | None = None,
    ) -> None:
        if not (with_cls or with_reg):
            raise ValueError(f'{type(self).__name__}: one of with_cls and with_reg must be True')
        if init_cfg is None:
            init_cfg = []
            if with_cls:
                init_cfg.append(dict(type='Normal', std=0.01, override=dict(name='fc_cls')))
            if with_reg:
                init_cfg.append(dict(type='Normal', std=0.001, override=dict(name='fc_reg')))
        super().__init__(init_cfg)
        self.with_avg_pool = with_avg_pool
        self.with_cls = with_cls
        self.with_reg = with_reg
        self.roi_feat_size = nn.modules.utils._pair(roi_feat_size)
        self.roi_feat_area = self.roi_feat_size[0] * self.roi_feat_size[1]
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.reg_class_agnostic = reg_class_agnostic
        self.reg_decoded_bbox = reg_decoded_bbox
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        self.avg_pool = nn.AvgPool2d(self.roi_feat_size)
        self._init_layers()

    @property
    def custom_cls_channels(self) -> bool:
        """Return whether the loss says how many logits there are."""
        return getattr(self.loss_cls, 'custom_cls_channels', False)

    @property
    def custom_activation(self) -> bool:
        """Return whether the loss makes scores of the logits, and counts what is right."""
        return getattr(self.loss_cls, 'custom_activation', False)

    def _init_layers(self) -> None:
        width = self.in_channels * (1 if self.with_avg_pool else self.roi_feat_area)
        self._add_predictor('cls', width)
        self._add_predictor('reg', width)

    def _add_predictor(self, name: str, width: int) -> None:
        """``fc_cls`` or ``fc_reg``, on ``width`` numbers, if it is asked for."""
        if name == 'cls' and self.with_cls:
            custom = self.custom_cls_channels
            numbers = self.loss_cls.get_cls_channels(self.num_classes) if custom else self.num_classes + 1
            self.fc_cls = nn.Linear(width, numbers)
        if name == 'reg' and self.with_reg:
            size = self.bbox_coder.encode_size
            self.fc_reg = nn.Linear(width, size if self.reg_class_agnostic else size * self.num_classes)

    def _flat(self, x: Tensor) -> Tensor:
        if self.with_avg_pool and x.dim() == 4:
            x = F.avg_pool2d(x, x.shape[2:])
        return x.flatten(1)

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Compute classes and boxes of regions.

        Args:
            x: features (R, in_channels, S, S).

        Returns:
            Logits (R, num_classes + 1), and deltas (R, 4 * num_classes), or (R, 4) with ``reg_class_agnostic``; None
            without ``with_cls`` or ``with_reg``.
        """
        x = self._flat(x)
        return self.fc_cls(x) if self.with_cls else None, self.fc_reg(x) if self.with_reg else None

    # -- training -----------------------------------------------------------------------------------------------

    def _get_targets_single(
        self, pos_priors: Tensor, neg_priors: Tensor, pos_gt_bboxes: Tensor, pos_gt_labels: Tensor, cfg: dict
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Labels (R,), their weights (R,), boxes (R, 4) and their weights (R, 4) of an image's regions."""
        num_pos, num_neg = len(pos_priors), len(neg_priors)
        weights = pos_priors.new_ones(num_pos + num_neg)
        pos_weight = cfg.get('pos_weight', -1)
        if pos_weight > 0:
            weights[:num_pos] = pos_weight
        boxes = pos_gt_bboxes if self.reg_decoded_bbox else self.bbox_coder.encode(pos_priors, pos_gt_bboxes)
        return (
            F.pad(pos_gt_labels, (0, num_neg), value=self.num_classes),
            weights,
            F.pad(boxes, (0, 0, 0, num_neg)),
            F.pad(torch.ones_like(boxes), (0, 0, 0, num_neg)),
        )

    @torch.no_grad()
    def get_targets(
        self, sampling_results: list[SamplingResult], rcnn_train_cfg: dict, concat: bool = True
    ) -> tuple[Any, Any, Any, Any]:
        """Make the targets of the sampled regions, image by image, positives first.

        Args:
            sampling_results: of each image, with boxes in pixels of the network's input.
            rcnn_train_cfg: ``pos_weight`` of positive regions in ``loss_cls``; without it, or for 0 or less, 1.
            concat: of all R regions together; False: a list of each image's.

        Returns:
            Labels (R,), ``num_classes`` for negatives; their weights (R,); deltas or, with ``reg_decoded_bbox``, boxes
            (R, 4), zeros for negatives; their weights (R, 4), 1 for positives, else 0.
        """
        targets = multi_apply(
            self._get_targets_single,
            [result.pos_priors for result in sampling_results],
            [result.neg_priors for result in sampling_results],
            [result.pos_gt_bboxes for result in sampling_results],
            [result.pos_gt_labels for result in sampling_results],
            cfg=rcnn_train_cfg,
        )
        labels, label_weights, boxes, box_weights = map(torch.cat, targets) if concat else targets
        return labels, label_weights, boxes, box_weights

    def loss_and_target(
        self,
        cls_score: Tensor | None,
        bbox_pred: Tensor | None,
        rois: Tensor,
        sampling_results: list[SamplingResult],
        rcnn_train_cfg: dict,
        concat: bool = True,
        reduction_override: str | None = None,
    ) -> dict[str, Any]:
        """Make the targets of the sampled regions, and compute the losses.

        Args:
            cls_score, bbox_pred: as from :meth:`forward`.
            rois: (R, 5) of image index and box, in pixels of the network's input.
            sampling_results, rcnn_train_cfg, concat: as of :meth:`get_targets`.
            reduction_override: of the losses.

        Returns:
            ``loss_bbox``, what :meth:`loss` returns, and ``bbox_targets``, what :meth:`get_targets` returns.
        """
        targets = self.get_targets(sampling_results, rcnn_train_cfg, concat=concat)
        losses = self.loss(cls_score, bbox_pred, rois, *targets, reduction_override=reduction_override)
        return dict(loss_bbox=losses, bbox_targets=targets)

    def loss(
        self,
        cls_score: Tensor | None,
        bbox_pred: Tensor | None,
        rois: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor | None,
        bbox_weights: Tensor | None,
        reduction_override: str | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses of R regions.

        Args:
            cls_score, bbox_pred: as from :meth:`forward`; None: no loss of it.
            rois: (R, 5) of image index and box, in pixels of the network's input.
            labels, label_weights, bbox_targets, bbox_weights: as from :meth:`get_targets`.
            reduction_override: 'none', 'sum' or 'mean' in place of the losses' own.

        Returns:
            ``loss_cls`` and ``loss_bbox``, scalars divided by the number of regions (for ``loss_cls`` of those with a
            weight), and ``acc``, (1,) in percent.
        """
        losses: dict[str, Tensor] = {}
        if cls_score is not None:
            cls_score = cls_score.float()
            avg_factor = (label_weights > 0).sum().clamp(min=1).float()
            found = (
                self.loss_cls(
                    cls_score, labels, label_weights, avg_factor=avg_factor, reduction_override=reduction_override
                )
                if len(cls_score)
                else cls_score.sum()
            )
            losses.update(found if isinstance(found, dict) else dict(loss_cls=found))
            if self.custom_activation:
                losses.update(self.loss_cls.get_accuracy(cls_score, labels))
            else:
                losses['acc'] = accuracy(cls_score, labels)
        if bbox_pred is not None:
            assert bbox_targets is not None and bbox_weights is not None
            bbox_pred = bbox_pred.float()
            positive = ((labels >= 0) & (labels < self.num_classes)).nonzero().flatten()
            if not len(positive):
                losses['loss_bbox'] = bbox_pred[positive].sum()
                return losses
            column = torch.zeros_like(positive) if self.reg_class_agnostic else labels[positive]
            own = bbox_pred.unflatten(1, (-1, 4))[positive, column]
            if self.reg_decoded_bbox:
                own = self.bbox_coder.decode(rois[positive, 1:], own)
            losses['loss_bbox'] = self.loss_bbox(
                own,
                bbox_targets[positive],
                bbox_weights[positive],
                avg_factor=len(bbox_targets),
                reduction_override=reduction_override,
            )
        return losses

    # -- the next of several stages -----------------------------------------------------------------------------

    def refine_bboxes(
        self, sampling_results: list[SamplingResult], bbox_results: dict, batch_img_metas: list[dict]
    ) -> list[InstanceData]:
        """Move the sampled regions to where this head sees their objects: the proposals of a next stage's training.

        Args:
            sampling_results: of each image.
            bbox_results: of all R regions ``rois`` (R, 5), ``cls_score`` (R, num_classes + 1), ``bbox_pred``, and
                ``bbox_targets``, whose first are the labels (R,); background takes its best other class.
            batch_img_metas: of each image, with ``img_shape``.

        Returns:
            For each image ``bboxes`` (K, 4) in pixels of the network's input, without the objects themselves, which
            the sampler had put among the regions.
        """
        labels = bbox_results['bbox_targets'][0]
        labels = torch.where(
            labels == self.num_classes, bbox_results['cls_score'][:, : self.num_classes].argmax(1), labels
        )
        numbers = [len(sampled.priors) for sampled in sampling_results]
        parts = (bbox_results['rois'][:, 1:], labels, bbox_results['bbox_pred'])
        refined = []
        images = zip(sampling_results, batch_img_metas, *(part.split(numbers) for part in parts))
        for sampled, meta, priors, own, deltas in images:
            objects = F.pad(sampled.pos_is_gt.bool(), (0, len(sampled.neg_priors)))
            refined.append(InstanceData(bboxes=self.regress_by_class(priors, own, deltas, meta)[~objects]))
        return refined

    def regress_by_class(self, priors: Tensor, label: Tensor, bbox_pred: Tensor, img_meta: dict) -> Tensor:
        """Decode the deltas of one class for each region.

        Args:
            priors: (R, 4) in pixels of the network's input.
            label: (R,), the class of each.
            bbox_pred: deltas (R, 4 * num_classes), or (R, 4) with ``reg_class_agnostic``.
            img_meta: with ``img_shape``, in which the boxes end.

        Returns:
            Boxes (R, 4).
        """
        deltas = bbox_pred.unflatten(1, (-1, self.bbox_coder.encode_size))
        column = torch.zeros_like(label) if self.reg_class_agnostic else label
        deltas = deltas[torch.arange(len(label), device=label.device), column]
        return self.bbox_coder.decode(priors, deltas, img_meta['img_shape'])

    # -- detections ---------------------------------------------------------------------------------------------

    def predict_by_feat(
        self,
        rois: Sequence[Tensor],
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor | None],
        batch_img_metas: list[dict],
        rcnn_test_cfg: dict | None = None,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Turn a head's output into detections.

        Args:
            rois: of each image (R, 5) of image index and box, in pixels of the network's input.
            cls_scores, bbox_preds: of each image, as from :meth:`forward`.
            batch_img_metas: ``img_shape``, to which boxes are clipped, and for ``rescale`` ``scale_factor`` (width,
                height).
            rcnn_test_cfg: ``score_thr``, ``nms``, ``max_per_img``; smaller sides than ``min_bbox_size`` pixels of the
                input are left out (by default none). None: all boxes (R, 4 * C) and scores (R, C + 1).
            rescale: boxes in pixels of the original images instead of the network's input.

        Returns:
            For each image ``bboxes`` (K, 4), ``scores`` (K,), falling, and ``labels`` (K,).
        """
        return [
            self._predict_by_feat_single(*parts, rescale=rescale, rcnn_test_cfg=rcnn_test_cfg)
            for parts in zip(rois, cls_scores, bbox_preds, batch_img_metas)
        ]

    def decode(
        self, priors: Tensor, cls_score: Tensor, bbox_pred: Tensor | None, img_shape: tuple
    ) -> tuple[Tensor, Tensor]:
        """Turn a head's output for R regions into boxes within the image, and scores.

        Args:
            priors: the regions (R, 4), in pixels of the network's input.
            cls_score, bbox_pred: as from :meth:`forward`.
            img_shape: (height, width), to which boxes are clipped.

        Returns:
            Boxes (R, 4 * num_classes), or (R, 4) if all classes have the same, and scores (R, num_classes + 1).
        """
        if self.custom_activation:
            scores = self.loss_cls.get_activation(cls_score)
        else:
            scores = cls_score.float().softmax(-1)
        if bbox_pred is None:
            return clip_boxes(priors, img_shape[:2]), scores
        size = self.bbox_coder.encode_size
        classes = bbox_pred.shape[1] // size
        deltas = bbox_pred.float().reshape(-1, size)
        boxes = self.bbox_coder.decode(priors.repeat_interleave(classes, 0), deltas, img_shape)
        return boxes.reshape(-1, 4 * classes), scores

    def _predict_by_feat_single(
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor | None,
        img_meta: dict,
        rescale: bool = False,
        rcnn_test_cfg: dict | None = None,
    ) -> InstanceData:
        """The detections of one image; arguments and results as of :meth:`predict_by_feat`."""
        boxes, scores = self.decode(roi[:, 1:], cls_score, bbox_pred, img_meta['img_shape'])
        smallest = -1 if rcnn_test_cfg is None else rcnn_test_cfg.get('min_bbox_size', -1)
        if smallest >= 0:
            corners = boxes.unflatten(1, (-1, 4))
            large = (corners[..., 2:] - corners[..., :2] >= smallest).all(-1)
            scores = torch.cat([scores[:, :-1] * large, scores[:, -1:]], 1)
        if rescale:
            boxes = scale_boxes(boxes, [1 / factor for factor in img_meta['scale_factor']])
        if rcnn_test_cfg is None:
            return InstanceData(bboxes=boxes, scores=scores)
        detections, labels = multiclass_nms(
            boxes, scores, rcnn_test_cfg['score_thr'], rcnn_test_cfg['nms'], rcnn_test_cfg['max_per_img']
        )
        return InstanceData(bboxes=detections[:, :4], scores=detections[:, 4], labels=labels)
