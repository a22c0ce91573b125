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
    """Holds what R regions should answer."""

    labels: Tensor  # (R,): class, or num_classes for background
    label_weights: Tensor  # (R,)
    boxes: Tensor  # (R, 4): deltas; with reg_decoded_bbox boxes
    priors: Tensor  # (R, 4): the regions


@MODELS.register_module()
class ConvFCBBoxHead(BaseModule):
    """Gives each region a class and a box: shared layers, then a branch for classes and one for boxes.

    The layers are 3x3 convolutions, then fully connected ones (Ren et al., Faster R-CNN, NeurIPS 2015, has two of
    these, shared). The heads below are this one with other defaults.

    Args:
        num_shared_convs, num_shared_fcs, num_cls_convs, num_cls_fcs, num_reg_convs, num_reg_fcs: numbers of layers,
            ``conv_out_channels`` and ``fc_out_channels`` wide. Both branches end in one more linear layer.
        in_channels, roi_feat_size: channels and side, in cells, of the regions' features.
        num_classes: without background, which is the last of ``num_classes + 1`` logits.
        bbox_coder: turns deltas and regions into boxes.
        reg_class_agnostic: one box for all classes.
        reg_decoded_bbox: ``loss_bbox`` compares boxes, as IoU losses need it, instead of deltas.
        with_avg_pool: the features are averaged before the first fully connected layer.
        conv_cfg, norm_cfg: of the convolutions.
        loss_cls, loss_bbox: of classes, and of the boxes of positive regions.

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
        """Compute classes and boxes of regions.

        Args:
            x: features (R, in_channels, S, S).

        Returns:
            Logits (R, num_classes + 1), and deltas (R, 4 * num_classes), or (R, 4) with ``reg_class_agnostic``.
        """

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
        """Make the targets of the sampled regions, image by image, positives first.

        Args:
            sampling_results: of each image, with boxes in pixels of the network's input.
            pos_weight: of positive regions in ``loss_cls``; 0 or less: 1.

        Returns:
            Targets of all R regions together. Negatives have the label ``num_classes`` and boxes of zeros.
        """
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
        """Compute the losses of R regions.

        Args:
            cls_score, bbox_pred: as from :meth:`forward`.
            targets: as from :meth:`get_targets`.

        Returns:
            ``loss_cls`` and ``loss_bbox``, scalars divided by the number of regions (for ``loss_cls`` of those with a
            weight), and ``acc``, (1,) in percent.
        """
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
        """Turn a head's output into detections of one image.

        Args:
            rois: (R, 5) of image index and box, in pixels of the network's input.
            cls_score, bbox_pred: as from :meth:`forward`.
            img_meta: ``img_shape``, to which boxes are clipped, and for ``rescale`` ``scale_factor`` (width, height).
            rcnn_test_cfg: ``score_thr``, ``nms``, ``max_per_img``; smaller sides than ``min_bbox_size`` pixels of the
                input are left out (by default none).
            rescale: boxes in pixels of the original image instead of the network's input.

        Returns:
            ``bboxes`` (K, 4), ``scores`` (K,), falling, and ``labels`` (K,).
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
    """Gives each region a class and a box straight from its features, without hidden layers, as the C4 models do.

    Arguments are :class:`ConvFCBBoxHead`'s; ``with_avg_pool=True`` averages the features first.

    Example:
        In a config, behind ResNet's last stage as a shared head::

            bbox_head=dict(type='BBoxHead', with_avg_pool=True, in_channels=2048, roi_feat_size=7, num_classes=80)
    """


@MODELS.register_module()
class Shared2FCBBoxHead(ConvFCBBoxHead):
    """Gives each region a class and a box from two shared fully connected layers (Ren et al., Faster R-CNN, 2015).

    Arguments are :class:`ConvFCBBoxHead`'s.

    Example:
        In a config, behind RoIAlign of 7x7 bins::

            bbox_head=dict(type='Shared2FCBBoxHead', in_channels=256, roi_feat_size=7, num_classes=80)
    """

    def __init__(self, fc_out_channels: int = 1024, **kwargs) -> None:
        super().__init__(num_shared_fcs=2, fc_out_channels=fc_out_channels, **kwargs)


@MODELS.register_module()
class Shared4Conv1FCBBoxHead(ConvFCBBoxHead):
    """Gives each region a class and a box from four 3x3 convolutions and one fully connected layer.

    The head comes from Wu and He, Group Normalization, 2018; its convolutions can have norms. Arguments are
    :class:`ConvFCBBoxHead`'s.

    Example:
        In a config::

            bbox_head=dict(type='Shared4Conv1FCBBoxHead', norm_cfg=dict(type='CBN'), num_classes=80)
    """

    def __init__(self, fc_out_channels: int = 1024, **kwargs) -> None:
        super().__init__(num_shared_convs=4, num_shared_fcs=1, fc_out_channels=fc_out_channels, **kwargs)
