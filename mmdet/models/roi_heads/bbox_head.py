"""Class and box of a region."""

from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from mmdet.models.layers import ConvModule, multiclass_nms
from mmdet.models.losses import accuracy
from mmdet.models.task_modules import SamplingResult
from mmdet.registry import MODELS, TASK_UTILS


class BBoxTargets(NamedTuple):
    """What R regions should answer."""

    labels: Tensor  # (R,): class, or num_classes for background
    label_weights: Tensor  # (R,)
    boxes: Tensor  # (R, 4): deltas; with reg_decoded_bbox boxes
    priors: Tensor  # (R, 4): the regions


@MODELS.register_module()
class ConvFCBBoxHead(BaseModule):
    """Shared convolutions and fully connected layers, then a branch for classes and one for boxes.

    Args:
        num_shared_convs, num_shared_fcs, num_cls_convs, num_cls_fcs, num_reg_convs, num_reg_fcs: numbers of layers,
            ``conv_out_channels`` and ``fc_out_channels`` wide. Both branches end in one more linear layer.
        in_channels, roi_feat_size: of the regions' features.
        num_classes: without background.
        reg_class_agnostic: one box for all classes.
        reg_decoded_bbox: ``loss_bbox`` compares boxes, as IoU losses need it, instead of deltas.
        with_avg_pool: the features are averaged before the first fully connected layer.
        norm_cfg: after the convolutions.

    Raises:
        ValueError: convolutions of a branch behind shared fully connected layers.
    """

    def __init__(
        self,
        num_shared_convs: int = 0,
        num_shared_fcs: int = 0,
        num_cls_convs: int = 0,
        num_cls_fcs: int = 0,
        num_reg_convs: int = 0,
        num_reg_fcs: int = 0,
        in_channels: int = 256,
        conv_out_channels: int = 256,
        fc_out_channels: int = 1024,
        roi_feat_size: int = 7,
        num_classes: int = 80,
        bbox_coder: dict = dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        reg_class_agnostic: bool = False,
        reg_decoded_bbox: bool = False,
        with_avg_pool: bool = False,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        loss_cls: dict = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        loss_bbox: dict = dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
        init_cfg: dict | list | None = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                dict(type='Normal', std=0.01, override=dict(name='fc_cls')),
                dict(type='Normal', std=0.001, override=dict(name='fc_reg')),
                dict(
                    type='Xavier',
                    distribution='uniform',
                    override=[dict(name='shared_fcs'), dict(name='cls_fcs'), dict(name='reg_fcs')],
                ),
            ]
        super().__init__(init_cfg)
        if num_shared_fcs and (num_cls_convs or num_reg_convs):
            raise ValueError(
                f'{type(self).__name__}: num_cls_convs={num_cls_convs}, num_reg_convs={num_reg_convs} '
                f'cannot follow num_shared_fcs={num_shared_fcs} flat layers; use num_shared_fcs=0'
            )
        self.num_classes = num_classes
        self.reg_class_agnostic = reg_class_agnostic
        self.reg_decoded_bbox = reg_decoded_bbox
        self.with_avg_pool = with_avg_pool
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)

        def branch(
            width: int, cells: int, num_convs: int, num_fcs: int
        ) -> tuple[nn.ModuleList, nn.ModuleList, int, int]:
            """Layers on features of ``width`` channels and ``cells`` cells, and these two numbers behind them."""
            convs, fcs = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_convs):
                convs.append(ConvModule(width, conv_out_channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg))
                width = conv_out_channels
            for _ in range(num_fcs):
                fcs.append(nn.Linear(width * cells, fc_out_channels))
                width, cells = fc_out_channels, 1
            return convs, fcs, width, cells

        self.shared_convs, self.shared_fcs, shared, spots = branch(
            in_channels, 1 if with_avg_pool else roi_feat_size * roi_feat_size, num_shared_convs, num_shared_fcs
        )
        self.cls_convs, self.cls_fcs, width, cells = branch(shared, spots, num_cls_convs, num_cls_fcs)
        self.fc_cls = nn.Linear(width * cells, num_classes + 1)
        self.reg_convs, self.reg_fcs, width, cells = branch(shared, spots, num_reg_convs, num_reg_fcs)
        self.fc_reg = nn.Linear(width * cells, 4 if reg_class_agnostic else 4 * num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (R, C, S, S) to logits (R, num_classes + 1) and deltas (R, 4 * num_classes) or (R, 4)."""

        def flat(x):
            if self.with_avg_pool and x.dim() == 4:
                x = F.avg_pool2d(x, x.shape[2:])
            return x.flatten(1)

        def run(convs, fcs, x):
            for conv in convs:
                x = conv(x)
            for fc in fcs:
                x = F.relu(fc(flat(x)), inplace=True)
            return x

        x = run(self.shared_convs, self.shared_fcs, x)
        scores, deltas = run(self.cls_convs, self.cls_fcs, x), run(self.reg_convs, self.reg_fcs, x)
        return self.fc_cls(flat(scores)), self.fc_reg(flat(deltas))

    @torch.no_grad()
    def get_targets(self, sampling_results: list[SamplingResult], pos_weight: float = -1) -> BBoxTargets:
        """Targets of the sampled regions, image by image, positives first."""
        labels, weights, boxes = [], [], []
        for result in sampling_results:
            num_neg = len(result.neg_inds)
            labels.append(F.pad(result.pos_gt_labels, (0, num_neg), value=self.num_classes))
            weight = result.pos_priors.new_ones(result.pos_priors.shape[0] + num_neg)
            if pos_weight > 0:
                weight[: len(result.pos_inds)] = pos_weight
            weights.append(weight)
            target = result.pos_gt_bboxes
            if not self.reg_decoded_bbox:
                target = self.bbox_coder.encode(result.pos_priors, target)
            boxes.append(F.pad(target, (0, 0, 0, num_neg)))
        priors = torch.cat([result.priors for result in sampling_results])
        return BBoxTargets(torch.cat(labels), torch.cat(weights), torch.cat(boxes), priors)

    def loss(self, cls_score: Tensor, bbox_pred: Tensor, targets: BBoxTargets) -> dict[str, Tensor]:
        """``loss_cls``, ``acc`` (percent) and ``loss_bbox``, averaged by the number of regions."""
        cls_score, bbox_pred = cls_score.float(), bbox_pred.float()
        if not len(cls_score):
            return dict(loss_cls=cls_score.sum(), acc=cls_score.new_zeros(1), loss_bbox=bbox_pred.sum())
        avg_factor = (targets.label_weights > 0).sum().clamp(min=1).float()
        positive = ((targets.labels >= 0) & (targets.labels < self.num_classes)).nonzero().flatten()
        losses = dict(
            loss_cls=self.loss_cls(cls_score, targets.labels, targets.label_weights, avg_factor=avg_factor),
            acc=accuracy(cls_score, targets.labels),
        )
        if not len(positive):
            losses['loss_bbox'] = bbox_pred[positive].sum()
            return losses
        column = torch.zeros_like(positive) if self.reg_class_agnostic else targets.labels[positive]
        own = bbox_pred.unflatten(1, (-1, 4))[positive, column]
        if self.reg_decoded_bbox:
            own = self.bbox_coder.decode(targets.priors[positive], own)
        losses['loss_bbox'] = self.loss_bbox(own, targets.boxes[positive], avg_factor=len(targets.labels))
        return losses

    def predict(
        self, rois: Tensor, cls_score: Tensor, bbox_pred: Tensor, img_meta: dict, rcnn_test_cfg: dict, rescale: bool
    ) -> InstanceData:
        """Detections of one image.

        Args:
            rois: (R, 5). cls_score, bbox_pred: as from :meth:`forward`.
            rcnn_test_cfg: ``score_thr``, ``nms``, ``max_per_img``; smaller sides than ``min_bbox_size`` pixels of the
                input are left out (by default none).
            rescale: boxes in pixels of the original image instead of the network's input.
        """
        scores = cls_score.float().softmax(-1)
        boxes = self.bbox_coder.decode(rois[:, 1:], bbox_pred.float(), img_meta['img_shape'])
        smallest = rcnn_test_cfg.get('min_bbox_size', -1)
        if smallest >= 0:
            corners = boxes.unflatten(1, (-1, 4))
            large = (corners[..., 2:] - corners[..., :2] >= smallest).all(-1)
            scores = torch.cat([scores[:, :-1] * large, scores[:, -1:]], 1)
        if rescale:
            factor = boxes.new_tensor([1 / factor for factor in img_meta['scale_factor']]).repeat(2)
            boxes = (boxes.unflatten(1, (-1, 4)) * factor).flatten(1)
        detections, labels = multiclass_nms(
            boxes, scores, rcnn_test_cfg['score_thr'], rcnn_test_cfg['nms'], rcnn_test_cfg['max_per_img']
        )
        return InstanceData(bboxes=detections[:, :4], scores=detections[:, 4], labels=labels)


@MODELS.register_module()
class BBoxHead(ConvFCBBoxHead):
    """Class and box straight from the features, without hidden layers."""


@MODELS.register_module()
class Shared2FCBBoxHead(ConvFCBBoxHead):
    """Two fully connected layers."""

    def __init__(self, fc_out_channels: int = 1024, **kwargs) -> None:
        super().__init__(num_shared_fcs=2, fc_out_channels=fc_out_channels, **kwargs)


@MODELS.register_module()
class Shared4Conv1FCBBoxHead(ConvFCBBoxHead):
    """Four 3x3 convolutions and one fully connected layer (Wu and He, Group Normalization, 2018)."""

    def __init__(self, fc_out_channels: int = 1024, **kwargs) -> None:
        super().__init__(num_shared_convs=4, num_shared_fcs=1, fc_out_channels=fc_out_channels, **kwargs)
