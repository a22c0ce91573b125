"""Region proposal network (Ren et al., Faster R-CNN, NeurIPS 2015)."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from mmdet.models.layers import ConvModule, batched_nms
from mmdet.models.task_modules.assigners.max_iou_assigner import assign_valid
from mmdet.models.utils import images_to_levels, multi_apply, select_single_mlvl, unpack_gt_instances
from mmdet.ops.sparse_grad import sparse_head
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import scale_boxes


@MODELS.register_module()
class RPNHead(BaseModule):
    """Proposes regions: gives each anchor an objectness score and a box (Ren et al., Faster R-CNN, NeurIPS 2015).

    A 3x3 convolution, shared by all levels, is followed by a 1x1 convolution each for scores and boxes. Anchors and
    proposals are in pixels of the network's input.

    Args:
        in_channels: of every feature map.
        num_classes: 1, objects of any class.
        feat_channels: of the hidden convolutions.
        num_convs: number of hidden convolutions.
        anchor_generator: for instance :class:`.AnchorGenerator`, with a stride for each feature map.
        bbox_coder: turns deltas and anchors into boxes.
        reg_decoded_bbox: ``loss_bbox`` compares boxes, as IoU losses need it, instead of deltas.
        loss_cls: of objectness; needs ``use_sigmoid=True``.
        loss_bbox: of the deltas or boxes of positive anchors.
        train_cfg: ``assigner``, ``sampler``, ``allowed_border`` (pixels an anchor may reach out of the image; negative:
            any), ``pos_weight`` (of positive anchors in ``loss_cls``; 0 or less: 1).
        test_cfg: ``nms_pre`` (proposals of a level before NMS; 0 or less: all), ``nms``, ``max_per_img``,
            ``min_bbox_size`` in pixels, which both sides of a proposal must exceed (negative: no bound),
            ``rank_logits`` (scores that the sigmoid makes equal are in the order of their logits, as in torchvision).

    Raises:
        ValueError: more than one class; a ``loss_cls`` without sigmoid.

    Example:
        In a config, behind an FPN of five levels::

            rpn_head=dict(
                type='RPNHead',
                in_channels=256,
                anchor_generator=dict(
                    type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
                ),
                loss_bbox=dict(type='L1Loss'),
            )
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 1,
        feat_channels: int = 256,
        num_convs: int = 1,
        anchor_generator: dict = dict(
            type='AnchorGenerator', scales=[8, 16, 32], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
        ),
        bbox_coder: dict = dict(type='DeltaXYWHBBoxCoder'),
        reg_decoded_bbox: bool = False,
        loss_cls: dict = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox: dict = dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0),
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = dict(type='Normal', layer='Conv2d', std=0.01),
    ) -> None:
        super().__init__(init_cfg)
        if num_classes != 1:
            raise ValueError(f'RPNHead: num_classes must be 1 (object or not), got {num_classes}')
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.cls_out_channels, self.use_sigmoid_cls = num_classes, True
        self.feat_channels = feat_channels
        self.num_convs = num_convs
        self.train_cfg = train_cfg or {}
        self.test_cfg = test_cfg or {}
        self.prior_generator = TASK_UTILS.build(anchor_generator)
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.reg_decoded_bbox = reg_decoded_bbox
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        if not getattr(self.loss_cls, 'use_sigmoid', False):
            raise ValueError('rpn_head.loss_cls must have use_sigmoid=True')
        if train_cfg is not None:
            self.assigner = TASK_UTILS.build(train_cfg['assigner'])
            self.sampler = TASK_UTILS.build(train_cfg['sampler'], default_args=dict(context=self))
        self._init_layers()

    @property
    def num_base_priors(self) -> int:
        """Return the number of anchors at a cell."""
        return self.prior_generator.num_base_priors[0]

    #: mmdetection's older names
    num_anchors = num_base_priors
    anchor_generator = property(lambda self: self.prior_generator)

    def _init_layers(self) -> None:
        if self.num_convs > 1:
            widths = [self.in_channels] + [self.feat_channels] * self.num_convs
            self.rpn_conv: nn.Module = nn.Sequential(
                *(ConvModule(one, two, 3, padding=1, inplace=False) for one, two in zip(widths, widths[1:]))
            )
        else:
            self.rpn_conv = nn.Conv2d(self.in_channels, self.feat_channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(self.feat_channels, self.num_base_priors, 1)
        self.rpn_reg = nn.Conv2d(self.feat_channels, self.num_base_priors * 4, 1)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute scores and deltas of all anchors, A at each cell.

        Args:
            x: maps (N, in_channels, H_i, W_i), one for each stride of the anchors.

        Returns:
            For each level logits (N, A, H_i, W_i), and for each level deltas (N, 4 A, H_i, W_i).
        """
        scores, deltas = multi_apply(self.forward_single, x)
        return scores, deltas

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits (N, A, H, W) and deltas (N, 4 A, H, W) of one level's map (N, in_channels, H, W)."""
        found = sparse_head(x, self.rpn_conv, self.rpn_cls, self.rpn_reg)
        if found is not None:
            return found[0], found[1]
        x = F.relu(self.rpn_conv(x))
        return self.rpn_cls(x), self.rpn_reg(x)

    # -- training -----------------------------------------------------------------------------------------------

    def loss(self, x: Sequence[Tensor], batch_data_samples: list) -> dict[str, list[Tensor]]:
        """Compute the losses of all levels.

        Args:
            x: maps (N, in_channels, H_i, W_i).
            batch_data_samples: N DetDataSamples with ``gt_instances`` in pixels of the network's input; of their labels
                nothing is used.

        Returns:
            What :meth:`loss_by_feat` returns.
        """
        objects, ignored, metas = unpack_gt_instances(batch_data_samples)
        scores, deltas = self(x)
        return self.loss_by_feat(scores, deltas, objects, metas, ignored)

    def loss_and_predict(
        self, x: Sequence[Tensor], batch_data_samples: list, proposal_cfg: dict | None = None
    ) -> tuple[dict, list[InstanceData]]:
        """Compute losses and proposals from one forward.

        Args:
            x, batch_data_samples: as of :meth:`loss`.
            proposal_cfg: how proposals are made, as ``test_cfg``; None: by ``test_cfg``.

        Returns:
            The losses, as of :meth:`loss`, and the proposals, as of :meth:`predict`; those have no gradient.
        """
        scores, deltas = self(x)
        objects, ignored, metas = unpack_gt_instances(batch_data_samples)
        losses = self.loss_by_feat(scores, deltas, objects, metas, ignored)
        return losses, self.predict_by_feat(scores, deltas, batch_img_metas=metas, cfg=proposal_cfg)

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list | None = None,
    ) -> dict[str, list[Tensor]]:
        """Compute the losses of what :meth:`forward` returns.

        Args:
            cls_scores, bbox_preds: of each level, as from :meth:`forward`.
            batch_gt_instances: of each image ``bboxes`` (K, 4) in pixels of the network's input, and ``labels`` (K,).
            batch_img_metas: of each image, with ``img_shape`` and ``pad_shape``.
            batch_gt_instances_ignore: of each image ``bboxes`` (I, 4) of ignored regions, or None.

        Returns:
            ``loss_rpn_cls`` and ``loss_rpn_bbox``, each a list of a scalar for each level, divided by the number of
            anchors sampled in all images.

        Raises:
            ValueError: an image in which no anchor lies, see :meth:`get_targets`.
        """
        sizes = [(level.shape[-2], level.shape[-1]) for level in cls_scores]
        anchors, flags = self.get_anchors(sizes, batch_img_metas, cls_scores[0].device)
        *targets, avg_factor = self.get_targets(
            anchors, flags, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        levels = [torch.stack(own) for own in zip(*anchors)]
        classes, boxes = multi_apply(
            self.loss_by_feat_single, cls_scores, bbox_preds, levels, *targets, avg_factor=avg_factor
        )
        return dict(loss_rpn_cls=classes, loss_rpn_bbox=boxes)

    def loss_by_feat_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        anchors: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        avg_factor: int,
    ) -> tuple[Tensor, Tensor]:
        """Compute the losses of one level of A anchors.

        Args:
            cls_score, bbox_pred: as from :meth:`forward_single`.
            anchors: (N, A, 4).
            labels, label_weights: (N, A).
            bbox_targets, bbox_weights: (N, A, 4).
            avg_factor: what the sums are divided by.

        Returns:
            The loss of the scores and that of the boxes, scalars.
        """
        scores = cls_score.permute(0, 2, 3, 1).reshape(-1, 1)
        boxes = bbox_pred.permute(0, 2, 3, 1).reshape(-1, 4)
        if self.reg_decoded_bbox:
            boxes = self.bbox_coder.decode(anchors.flatten(0, 1), boxes.float())
        return (
            self.loss_cls(scores, labels.flatten(), label_weights.flatten(), avg_factor=avg_factor),
            self.loss_bbox(boxes, bbox_targets.flatten(0, 1), bbox_weights.flatten(0, 1), avg_factor=avg_factor),
        )

    def get_anchors(
        self, featmap_sizes: Sequence[tuple[int, int]], batch_img_metas: list[dict], device: str | torch.device = 'cuda'
    ) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Lay the anchors of a batch.

        Args:
            featmap_sizes: (height, width) in cells, of each level.
            batch_img_metas: of each image, with ``pad_shape``.
            device: of the anchors.

        Returns:
            For each image of each level the anchors (A, 4), and whether they belong to cells inside the image (A,).
        """
        anchors = self.prior_generator.grid_priors(featmap_sizes, device=device)
        flags = [self.prior_generator.valid_flags(featmap_sizes, meta['pad_shape'], device) for meta in batch_img_metas]
        return [anchors] * len(batch_img_metas), flags

    def get_targets(
        self,
        anchor_list: list[list[Tensor]],
        valid_flag_list: list[list[Tensor]],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list | None = None,
        unmap_outputs: bool = True,
        return_sampling_results: bool = False,
    ) -> tuple:
        """Say what the anchors should answer.

        Args:
            anchor_list, valid_flag_list: as from :meth:`get_anchors`.
            batch_gt_instances, batch_img_metas, batch_gt_instances_ignore: as of :meth:`loss_by_feat`.
            unmap_outputs: True: of all anchors, also those that are not valid.
            return_sampling_results: return each image's SamplingResult besides, as a list.

        Returns:
            Of each level labels (N, A), 0 for an object and 1 for background, their weights (N, A), deltas or, with
            ``reg_decoded_bbox``, boxes (N, A, 4) and their weights (N, A, 4); the number of samples.

        Raises:
            ValueError: an image in which, by ``allowed_border``, no anchor lies.
        """
        *targets, _, _, samples = multi_apply(
            self._get_targets_single,
            [torch.cat(own) for own in anchor_list],
            [torch.cat(own) for own in valid_flag_list],
            batch_gt_instances,
            batch_img_metas,
            batch_gt_instances_ignore or [None] * len(anchor_list),
            unmap_outputs=unmap_outputs,
        )
        numbers = [len(level) for level in anchor_list[0]]
        labels, label_weights, boxes, box_weights = (images_to_levels(part, numbers) for part in targets)
        found = labels, label_weights, boxes, box_weights, sum(own.avg_factor for own in samples)
        return (*found, samples) if return_sampling_results else found

    @torch.no_grad()
    def _get_targets_single(
        self,
        flat_anchors: Tensor,
        valid_flags: Tensor,
        gt_instances: InstanceData,
        img_meta: dict,
        gt_instances_ignore: InstanceData | None = None,
        unmap_outputs: bool = True,
    ) -> tuple:
        """Labels (A,), their weights (A,), boxes (A, 4), their weights (A, 4), positive and negative anchors of an
        image, and its SamplingResult."""
        assert unmap_outputs, 'RPNHead: targets are of all anchors; unmap_outputs=False is not here'
        anchors, flags = flat_anchors, valid_flags
        border = self.train_cfg.get('allowed_border', -1)
        if border >= 0:
            height, width = img_meta['img_shape'][:2]
            flags = flags & (anchors[:, :2] >= -border).all(1)
            flags &= (anchors[:, 2] < width + border) & (anchors[:, 3] < height + border)
            if not flags.any():
                raise ValueError(
                    f'image {img_meta.get("img_path", "")}: no valid anchor: none of {len(flags)} lies within its '
                    f'{width} x {height} pixels (width x height); set train_cfg.rpn.allowed_border=-1, now {border}, '
                    'or smaller anchor_generator.scales'
                )
        assigned = assign_valid(self.assigner, anchors, flags, gt_instances, gt_instances_ignore)
        sampled = self.sampler.sample(assigned, InstanceData(priors=anchors), gt_instances)
        positive, negative = sampled.pos_inds, sampled.neg_inds
        labels = torch.full((len(anchors),), self.num_classes, device=anchors.device)
        label_weights, boxes = anchors.new_zeros(len(anchors)), anchors.new_zeros(len(anchors), 4)
        box_weights = anchors.new_zeros(len(anchors), 1)
        pos_weight = self.train_cfg.get('pos_weight', -1)
        labels[positive] = 0
        label_weights[positive] = 1.0 if pos_weight <= 0 else pos_weight
        label_weights[negative] = 1.0
        if self.reg_decoded_bbox:
            boxes[positive] = sampled.pos_gt_bboxes.to(boxes.dtype)
        else:
            boxes[positive] = self.bbox_coder.encode(sampled.pos_priors, sampled.pos_gt_bboxes)
        box_weights[positive] = 1.0
        return labels, label_weights, boxes, box_weights.expand(-1, 4), positive, negative, sampled

    # -- proposals ----------------------------------------------------------------------------------------------

    def predict(self, x: Sequence[Tensor], batch_data_samples: list, rescale: bool = False) -> list[InstanceData]:
        """Propose regions.

        Args:
            x: maps (N, in_channels, H_i, W_i).
            batch_data_samples: N DetDataSamples, whose metainfo has ``img_shape`` and, for ``rescale``,
                ``scale_factor``.
            rescale: boxes in pixels of the original images instead of the network's input.

        Returns:
            What :meth:`predict_by_feat` returns.
        """
        metas = [sample.metainfo for sample in batch_data_samples]
        scores, deltas = self(x)
        return self.predict_by_feat(scores, deltas, batch_img_metas=metas, rescale=rescale)

    @torch.no_grad()
    def predict_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        score_factors: Sequence[Tensor] | None = None,
        batch_img_metas: list[dict] | None = None,
        cfg: dict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Propose regions from what :meth:`forward` returns.

        Args:
            cls_scores, bbox_preds: of each level, as from :meth:`forward`.
            score_factors: of heads that have them; not used here.
            batch_img_metas: of each image, with ``img_shape`` and, for ``rescale``, ``scale_factor``.
            cfg: as ``test_cfg``, which it is by default.
            rescale: boxes in pixels of the original images instead of the network's input.
            with_nms: False leaves all candidates.

        Returns:
            For each image ``bboxes`` (K, 4) within the image and ``scores`` (K,) from 0 to 1, by falling score, and
            ``labels`` (K,) of zeros; K is at most ``max_per_img``.
        """
        priors = self.prior_generator.grid_priors(
            [tuple(level.shape[-2:]) for level in cls_scores], device=cls_scores[0].device
        )
        return [
            self._predict_by_feat_single(
                select_single_mlvl(cls_scores, i),
                select_single_mlvl(bbox_preds, i),
                [None] * len(cls_scores) if score_factors is None else select_single_mlvl(score_factors, i),
                priors,
                meta,
                cfg,
                rescale,
                with_nms,
            )
            for i, meta in enumerate(batch_img_metas or ())
        ]

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list,
        mlvl_priors: list[Tensor],
        img_meta: dict,
        cfg: dict | None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        """An image's candidates of all levels, (A, H, W) and (4 A, H, W) each, to :meth:`_bbox_post_process`."""
        cfg = self.test_cfg if cfg is None else cfg
        nms_pre = cfg.get('nms_pre', -1)
        kept_scores, kept_deltas, kept_priors, kept_levels = [], [], [], []
        for level, (score, delta, prior) in enumerate(zip(cls_score_list, bbox_pred_list, mlvl_priors)):
            score = score.permute(1, 2, 0).flatten().float()
            delta = delta.permute(1, 2, 0).reshape(-1, 4).float()
            if cfg.get('rank_logits', False):
                order = score.argsort(descending=True, stable=True)[: nms_pre if nms_pre > 0 else None]
                score, delta, prior = score[order], delta[order], prior[order]
            score = score.sigmoid()
            if 0 < nms_pre < len(score):
                # Not topk: of equal scores at the cut this keeps those that mmdetection keeps.
                score, best = (part[:nms_pre] for part in score.sort(descending=True))
                delta, prior = delta[best], prior[best]
            kept_scores.append(score)
            kept_deltas.append(delta)
            kept_priors.append(prior)
            kept_levels.append(torch.full_like(score, level, dtype=torch.long))
        boxes = self.bbox_coder.decode(torch.cat(kept_priors), torch.cat(kept_deltas), img_meta['img_shape'])
        found = InstanceData(bboxes=boxes, scores=torch.cat(kept_scores), level_ids=torch.cat(kept_levels))
        return self._bbox_post_process(found, cfg, rescale, with_nms, img_meta)

    def _bbox_post_process(
        self,
        results: InstanceData,
        cfg: dict,
        rescale: bool = False,
        with_nms: bool = True,
        img_meta: dict | None = None,
    ) -> InstanceData:
        """Rescale an image's candidates, leave out small ones, and suppress what overlaps better ones."""
        boxes, scores = results.bboxes, results.scores
        levels = results.get('level_ids', torch.zeros_like(scores, dtype=torch.long))
        if rescale and img_meta is not None:
            boxes = scale_boxes(boxes, [1 / factor for factor in img_meta['scale_factor']])
        smallest = cfg.get('min_bbox_size', -1)
        if smallest >= 0:
            large = (boxes[:, 2:] - boxes[:, :2] > smallest).all(1).nonzero().flatten()  # one read back from a GPU
            boxes, scores, levels = boxes[large], scores[large], levels[large]
        if with_nms:
            detections = batched_nms(boxes, scores, levels, cfg['nms'])[0][: cfg['max_per_img']]
            boxes, scores = detections[:, :4], detections[:, 4]
        return InstanceData(bboxes=boxes, scores=scores, labels=torch.zeros_like(scores, dtype=torch.long))
