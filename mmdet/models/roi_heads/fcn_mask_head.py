"""Mask of a region (He et al., Mask R-CNN, ICCV 2017)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import build_conv_layer
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from mmdet.models.layers import ConvModule
from mmdet.models.task_modules import SamplingResult
from mmdet.registry import MODELS


def paste_mask(mask: Tensor, box: Tensor, height: int, width: int) -> tuple[Tensor, tuple]:
    """Put a region's mask in its place in the image, bilinearly, pixel centres at half numbers.

    Args:
        mask: probabilities (S, S').
        box: (4,) in pixels of the image.
        height, width: of the image.

    Returns:
        The probabilities of the part of the (height, width) image that the mask reaches, and its (top, left) corner.
    """
    x1, y1, x2, y2 = box.tolist()
    # Interpolation with the nought around it reaches half a mask cell beyond the box.
    reach_x = 1 + math.ceil(abs(x2 - x1) / mask.shape[1])
    reach_y = 1 + math.ceil(abs(y2 - y1) / mask.shape[0])
    left, right = (min(max(v, 0), width) for v in (math.floor(x1) - reach_x, math.ceil(x2) + reach_x))
    top, bottom = (min(max(v, 0), height) for v in (math.floor(y1) - reach_y, math.ceil(y2) + reach_y))
    if left >= right or top >= bottom or x2 <= x1 or y2 <= y1:
        return mask.new_zeros(0, 0), (0, 0)
    x = torch.arange(left, right, device=mask.device, dtype=mask.dtype) + 0.5
    y = torch.arange(top, bottom, device=mask.device, dtype=mask.dtype) + 0.5
    x, y = (x - box[0]) / (box[2] - box[0]) * 2 - 1, (y - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)
    return F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0], (top, left)


@MODELS.register_module()
class FCNMaskHead(BaseModule):
    """Draws a mask of each class for each region: convolutions, upsampling by two, a last 1x1 convolution (Mask R-CNN).

    Args:
        num_convs: hidden convolutions, ``conv_out_channels`` wide.
        roi_feat_size: not used, as convolutions take any size; accepted for mmdetection's configs.
        in_channels: of the regions' features.
        conv_kernel_size: of the hidden convolutions.
        class_agnostic: one mask for all classes.
        upsample_cfg: ``type='deconv'`` and ``scale_factor``.
        conv_cfg, norm_cfg: of the hidden convolutions.
        predictor_cfg: kind of the last convolution, as a ``conv_cfg``.
        loss_mask: :class:`.CrossEntropyLoss` with ``use_mask``.

    Raises:
        ValueError: another upsampling.

    Example:
        In a config, behind RoIAlign of 14x14 bins; ``mask_size=28`` in ``train_cfg.rcnn`` fits it::

            mask_head=dict(type='FCNMaskHead', num_convs=4, in_channels=256, conv_out_channels=256, num_classes=80)
    """

    def __init__(
        self,
        num_convs: int = 4,
        roi_feat_size: int = 14,
        in_channels: int = 256,
        conv_kernel_size: int = 3,
        conv_out_channels: int = 256,
        num_classes: int = 80,
        class_agnostic: bool = False,
        upsample_cfg: dict = dict(type='deconv', scale_factor=2),
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        predictor_cfg: dict | None = dict(type='Conv'),
        loss_mask: dict = dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if upsample_cfg.get('type') != 'deconv':
            raise ValueError(f"mask_head.upsample_cfg.type must be 'deconv', got {upsample_cfg.get('type')!r}")
        self.num_convs = num_convs
        self.roi_feat_size = _pair(roi_feat_size)
        self.in_channels = in_channels
        self.conv_kernel_size = conv_kernel_size
        self.conv_out_channels = conv_out_channels
        self.upsample_method = upsample_cfg['type']
        self.scale_factor = upsample_cfg.get('scale_factor', 2)
        self.conv_cfg, self.norm_cfg, self.predictor_cfg = conv_cfg, norm_cfg, predictor_cfg
        self.num_classes = num_classes
        self.class_agnostic = class_agnostic
        self.loss_mask = MODELS.build(loss_mask)
        self.convs = nn.ModuleList(
            ConvModule(
                in_channels if i == 0 else conv_out_channels,
                conv_out_channels,
                conv_kernel_size,
                padding=(conv_kernel_size - 1) // 2,
                conv_cfg=conv_cfg,
                norm_cfg=norm_cfg,
            )
            for i in range(num_convs)
        )
        width = conv_out_channels if num_convs else in_channels
        self.upsample = nn.ConvTranspose2d(width, conv_out_channels, self.scale_factor, stride=self.scale_factor)
        self.relu = nn.ReLU(inplace=True)
        self.conv_logits = build_conv_layer(predictor_cfg, conv_out_channels, 1 if class_agnostic else num_classes, 1)

    def init_weights(self) -> None:
        """Draw the weights: by ``init_cfg``, then upsampling and last convolution by Kaiming normal with bias 0."""
        super().init_weights()
        for module in (self.upsample, self.conv_logits):
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute masks of regions.

        Args:
            x: features (R, in_channels, S, S).

        Returns:
            Logits (R, num_classes, 2 S, 2 S), or of one channel with ``class_agnostic``; 2 is ``upsample_cfg``'s
            factor.
        """
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(self.relu(self.upsample(x)))

    # -- training -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def get_targets(
        self, sampling_results: list[SamplingResult], batch_gt_instances: list[InstanceData], rcnn_train_cfg: dict
    ) -> Tensor:
        """Cut the objects' masks to the P positive regions.

        Args:
            sampling_results: of each image, with boxes in pixels of the network's input.
            batch_gt_instances: of each image ``masks``, :class:`.BitmapMasks` or :class:`.PolygonMasks`.
            rcnn_train_cfg: ``mask_size``, side of the targets in cells, or (height, width).

        Returns:
            (P, size, size) of 0 and 1, in the boxes' dtype.
        """
        size = _pair(rcnn_train_cfg['mask_size'])
        priors = torch.cat([result.pos_priors for result in sampling_results])
        objects = torch.cat([result.pos_assigned_gt_inds for result in sampling_results])
        regions = torch.cat([priors, objects[:, None]], 1).cpu()  # one transfer: float32 holds the indices
        targets = []
        parts = regions.split([len(result.pos_priors) for result in sampling_results])
        for own, instances in zip(parts, batch_gt_instances):
            masks = instances.masks
            boxes = own[:, :4].numpy().clip(0, own.new_tensor([masks.width, masks.height] * 2).numpy())
            targets.append(masks.crop_to_tensor(boxes, size, own[:, 4].numpy().astype(int), priors.device))
        return torch.cat(targets).to(priors.dtype)

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: list[InstanceData],
        rcnn_train_cfg: dict,
    ) -> dict[str, Any]:
        """Make the targets of the P positive regions, and compute the loss.

        Args:
            mask_preds: logits (P, C, H, W).
            sampling_results, batch_gt_instances, rcnn_train_cfg: as of :meth:`get_targets`.

        Returns:
            ``loss_mask``, a dict of ``loss_mask``, (1,), 0 but connected for P = 0; ``mask_targets``, what
            :meth:`get_targets` returns.
        """
        targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        if self.class_agnostic:
            labels = torch.zeros_like(labels)
        return dict(loss_mask=dict(loss_mask=self.loss_mask(mask_preds, targets, labels)), mask_targets=targets)

    # -- detections ---------------------------------------------------------------------------------------------

    def predict_by_feat(
        self,
        mask_preds: Sequence[Tensor],
        results_list: list[InstanceData],
        batch_img_metas: list[dict],
        rcnn_test_cfg: dict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> list[InstanceData]:
        """Draw the masks of all detections.

        Args:
            mask_preds: of each image logits (K, C, H, W).
            results_list: of each image ``bboxes`` (K, 4) in pixels of the network's input, and ``labels`` (K,).
            batch_img_metas: of each image, with ``ori_shape`` and ``scale_factor``.
            rcnn_test_cfg: ``mask_thr_binary``, the least probability of a pixel that is set; below 0 the masks are
                probabilities times 255, as uint8.
            rescale: in pixels of the original images, the boxes as well, instead of the network's input.
            activate_map: ``mask_preds`` are probabilities already.

        Returns:
            ``results_list``, which now has ``masks`` (K, height, width) bool of the whole images.
        """
        for own, results, meta in zip(mask_preds, results_list, batch_img_metas):
            results.masks = self._predict_by_feat_single(
                own, results.bboxes, results.labels, meta, rcnn_test_cfg, rescale, activate_map
            )
        return results_list

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: dict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor:
        """The masks of one image; with ``rescale`` its ``bboxes`` change in place, as in mmdetection."""
        if rescale:
            bboxes /= bboxes.new_tensor(img_meta['scale_factor']).repeat(2)
        height, width = img_meta['ori_shape' if rescale else 'img_shape'][:2]
        threshold = rcnn_test_cfg['mask_thr_binary']
        kind = torch.bool if threshold >= 0 else torch.uint8
        out = torch.zeros(len(bboxes), height, width, dtype=kind, device=mask_preds.device)
        column = torch.zeros_like(labels) if self.class_agnostic else labels
        own = mask_preds[torch.arange(len(labels), device=labels.device), column.long()].float()
        own = own if activate_map else own.sigmoid()
        for image, mask, box in zip(out, own, bboxes.cpu()):  # one transfer, not one for each box
            part, (top, left) = paste_mask(mask, box, height, width)
            part = part >= threshold if threshold >= 0 else part * 255
            image[top : top + part.shape[0], left : left + part.shape[1]] = part
        return out
