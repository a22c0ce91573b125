"""Region proposal network (Ren et al., Faster R-CNN, NeurIPS 2015)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from mmdet.models.layers import ConvModule, batched_nms
from mmdet.registry import MODELS, TASK_UTILS


class AnchorTargets(NamedTuple):
    """Holds what the anchors of an image should answer; there are A anchors over all levels."""

    labels: Tensor  # (A,): 0 object, 1 background
    label_weights: Tensor  # (A,)
    boxes: Tensor  # (A, 4): deltas; with reg_decoded_bbox boxes
    box_weights: Tensor  # (A, 1)
    num_samples: int


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
        self.num_classes = num_classes
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
        if num_convs > 1:
            self.rpn_conv: nn.Module = nn.Sequential(
                *(
                    ConvModule(in_channels if i == 0 else feat_channels, feat_channels, 3, padding=1, inplace=False)
                    for i in range(num_convs)
                )
            )
        else:
            self.rpn_conv = nn.Conv2d(in_channels, feat_channels, 3, padding=1)
        number = self.prior_generator.num_base_priors[0]
        self.rpn_cls = nn.Conv2d(feat_channels, number, 1)
        self.rpn_reg = nn.Conv2d(feat_channels, number * 4, 1)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute scores and deltas of all anchors, A at each cell.

        Args:
            feats: maps (N, in_channels, H_i, W_i), one for each stride of the anchors.

        Returns:
            For each level logits (N, A, H_i, W_i), and for each level deltas (N, 4 A, H_i, W_i).
        """
        hidden = [F.relu(self.rpn_conv(x)) for x in feats]
        return [self.rpn_cls(x) for x in hidden], [self.rpn_reg(x) for x in hidden]

    # -- training -----------------------------------------------------------------------------------------------

    def loss(self, feats: Sequence[Tensor], batch_data_samples: list) -> dict[str, list[Tensor]]:
        """Compute the losses of all levels.

        Args:
            feats: maps (N, in_channels, H_i, W_i).
            batch_data_samples: N DetDataSamples with ``gt_instances`` in pixels of the network's input; of their labels
                nothing is used.

        Returns:
            ``loss_rpn_cls`` and ``loss_rpn_bbox``, each a list of a scalar for each level, divided by the number of
            anchors sampled in all images.
        """
        scores, deltas = self(feats)
        return self._loss(scores, deltas, batch_data_samples)

    def loss_and_predict(
        self, feats: Sequence[Tensor], batch_data_samples: list, proposal_cfg: dict | None = None
    ) -> tuple[dict, list[InstanceData]]:
        """Compute losses and proposals from one forward.

        Args:
            feats, batch_data_samples: as of :meth:`loss`.
            proposal_cfg: how proposals are made, as ``test_cfg``; None: by ``test_cfg``.

        Returns:
            The losses, as of :meth:`loss`, and the proposals, as of :meth:`predict`; those have no gradient.
        """
        scores, deltas = self(feats)
        losses = self._loss(scores, deltas, batch_data_samples)
        metas = [sample.metainfo for sample in batch_data_samples]
        return losses, self._predict(scores, deltas, metas, proposal_cfg)

    def _loss(self, scores: list[Tensor], deltas: list[Tensor], samples: list) -> dict[str, list[Tensor]]:
        sizes = [tuple(x.shape[-2:]) for x in scores]
        device = scores[0].device
        anchors = torch.cat(self.prior_generator.grid_priors(sizes, device=device))
        targets = []
        for sample in samples:
            flags = torch.cat(self.prior_generator.valid_flags(sizes, sample.metainfo['pad_shape'], device))
            targets.append(self._targets(anchors, flags, sample))
        avg_factor = sum(target.num_samples for target in targets)
        labels, label_weights, box_targets, box_weights = (torch.stack(parts) for parts in list(zip(*targets))[:4])
        losses: dict[str, list[Tensor]] = dict(loss_rpn_cls=[], loss_rpn_bbox=[])
        begin = 0
        for score, delta in zip(scores, deltas):
            score = score.permute(0, 2, 3, 1).reshape(len(samples), -1)
            delta = delta.permute(0, 2, 3, 1).reshape(len(samples), -1, 4)
            level = slice(begin, begin + score.shape[1])
            begin = level.stop
            boxes = delta.flatten(0, 1)
            if self.reg_decoded_bbox:
                boxes = self.bbox_coder.decode(anchors[level].repeat(len(samples), 1), boxes.float())
            losses['loss_rpn_cls'].append(
                self.loss_cls(
                    score.reshape(-1, 1),
                    labels[:, level].flatten(),
                    label_weights[:, level].flatten(),
                    avg_factor=avg_factor,
                )
            )
            losses['loss_rpn_bbox'].append(
                self.loss_bbox(
                    boxes,
                    box_targets[:, level].flatten(0, 1),
                    box_weights[:, level].flatten(0, 1),
                    avg_factor=avg_factor,
                )
            )
        return losses

    @torch.no_grad()
    def _targets(self, anchors: Tensor, flags: Tensor, sample) -> AnchorTargets:
        border = self.train_cfg.get('allowed_border', -1)
        if border >= 0:
            height, width = sample.metainfo['img_shape'][:2]
            flags = flags & (anchors[:, :2] >= -border).all(1)
            flags &= (anchors[:, 2] < width + border) & (anchors[:, 3] < height + border)
        # An anchor without a size overlaps nothing. To leave it out would read back from a GPU how many are left.
        priors = InstanceData(priors=anchors * flags[:, None])
        # Of the objects the RPN sees no class.
        objects = InstanceData(bboxes=sample.gt_instances.bboxes, labels=torch.zeros_like(sample.gt_instances.labels))
        assigned = self.assigner.assign(priors, objects, sample.get('ignored_instances'))
        assigned.gt_inds = assigned.gt_inds.masked_fill(~flags, -1)
        sampled = self.sampler.sample(assigned, InstanceData(priors=anchors), objects)
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
        return AnchorTargets(labels, label_weights, boxes, box_weights, sampled.avg_factor)

    # -- proposals ----------------------------------------------------------------------------------------------

    def predict(self, feats: Sequence[Tensor], batch_data_samples: list, rescale: bool = False) -> list[InstanceData]:
        """Propose regions.

        Args:
            feats: maps (N, in_channels, H_i, W_i).
            batch_data_samples: N DetDataSamples, whose metainfo has ``img_shape`` and, for ``rescale``,
                ``scale_factor``.
            rescale: boxes in pixels of the original images instead of the network's input.

        Returns:
            For each image ``bboxes`` (K, 4) within the image and ``scores`` (K,) from 0 to 1, by falling score, and
            ``labels`` (K,) of zeros; K is at most ``max_per_img``.
        """
        scores, deltas = self(feats)
        return self._predict(scores, deltas, [sample.metainfo for sample in batch_data_samples], rescale=rescale)

    @torch.no_grad()
    def _predict(
        self,
        scores: list[Tensor],
        deltas: list[Tensor],
        metas: list[dict],
        cfg: dict | None = None,
        rescale: bool = False,
    ) -> list[InstanceData]:
        cfg = self.test_cfg if cfg is None else cfg
        sizes = [tuple(x.shape[-2:]) for x in scores]
        anchors = self.prior_generator.grid_priors(sizes, device=scores[0].device)
        found = [
            self._candidates([x[i] for x in scores], [x[i] for x in deltas], anchors, meta, cfg, rescale)
            for i, meta in enumerate(metas)
        ]
        smallest = cfg.get('min_bbox_size', -1)
        if smallest >= 0:
            large = [(boxes[:, 2:] - boxes[:, :2] > smallest).all(1) for boxes, _, _ in found]
            numbers = torch.stack([own.sum() for own in large]).tolist()  # of all images in one read back from a GPU
            chosen = [own.byte().argsort(descending=True, stable=True)[:n] for own, n in zip(large, numbers)]
            found = [(boxes[own], score[own], level[own]) for (boxes, score, level), own in zip(found, chosen)]
        results = []
        for boxes, score, level in found:
            detections = batched_nms(boxes, score, level, cfg['nms'])[0][: cfg['max_per_img']]
            results.append(
                InstanceData(
                    bboxes=detections[:, :4],
                    scores=detections[:, 4],
                    labels=torch.zeros_like(detections[:, 4], dtype=torch.long),
                )
            )
        return results

    def _candidates(self, scores, deltas, anchors, meta, cfg, rescale) -> tuple[Tensor, Tensor, Tensor]:
        """An image's boxes (K, 4), scores (K,) and levels (K,) before NMS."""
        nms_pre = cfg.get('nms_pre', -1)
        kept_scores, kept_deltas, kept_anchors, kept_levels = [], [], [], []
        for level, (score, delta, prior) in enumerate(zip(scores, deltas, anchors)):
            score = score.permute(1, 2, 0).flatten().float()
            delta = delta.permute(1, 2, 0).reshape(-1, 4).float()
            if cfg.get('rank_logits', False):
                order = score.argsort(descending=True, stable=True)[: nms_pre if nms_pre > 0 else None]
                score, delta, prior = score[order], delta[order], prior[order]
            score = score.sigmoid()
            if 0 < nms_pre < len(score):
                # Not topk: of equal scores at the cut this keeps those that mmdetection keeps.
                score, best = (x[:nms_pre] for x in score.sort(descending=True))
                delta, prior = delta[best], prior[best]
            kept_scores.append(score)
            kept_deltas.append(delta)
            kept_anchors.append(prior)
            kept_levels.append(torch.full_like(score, level, dtype=torch.long))
        scores, levels = torch.cat(kept_scores), torch.cat(kept_levels)
        boxes = self.bbox_coder.decode(torch.cat(kept_anchors), torch.cat(kept_deltas), meta['img_shape'])
        if rescale:
            boxes = boxes * boxes.new_tensor([1 / factor for factor in meta['scale_factor']]).repeat(2)
        return boxes, scores, levels
