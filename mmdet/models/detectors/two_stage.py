"""Faster R-CNN (Ren et al., NeurIPS 2015) and Mask R-CNN (He et al., ICCV 2017)."""

from typing import cast

from mmengine.model import BaseModel
from torch import Tensor

from mmdet.registry import MODELS


class TwoStageDetector(BaseModel):
    """Backbone, neck, region proposals, heads on regions.

    Args:
        train_cfg: ``rpn``, ``rpn_proposal`` (proposals in training), ``rcnn``.
        test_cfg: ``rpn``, ``rcnn``.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict | None = None,
        rpn_head: dict | None = None,
        roi_head: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if rpn_head is None or roi_head is None:
            name = 'rpn_head' if rpn_head is None else 'roi_head'
            raise ValueError(f'{type(self).__name__}: model.{name} is missing')
        train_cfg, test_cfg = train_cfg or {}, test_cfg or {}
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.backbone = MODELS.build(backbone)
        self.neck = None if neck is None else MODELS.build(neck)
        self.rpn_head = MODELS.build(dict(rpn_head, train_cfg=train_cfg.get('rpn'), test_cfg=test_cfg.get('rpn')))
        self.roi_head = MODELS.build(dict(roi_head, train_cfg=train_cfg.get('rcnn'), test_cfg=test_cfg.get('rcnn')))

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) to feature maps, largest first."""
        x = self.backbone(inputs)
        return x if self.neck is None else self.neck(x)

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> dict | list | tuple:
        """Losses (mode 'loss'), data samples with detections ('predict'), or raw outputs ('tensor').

        Args:
            inputs: normalized images (N, 3, H, W).
            data_samples: a DetDataSample for each image, with ground truth for the losses.
        """
        if mode == 'loss':
            return self.loss(inputs, cast(list, data_samples))
        if mode == 'predict':
            return self.predict(inputs, cast(list, data_samples))
        if mode == 'tensor':
            x = self.extract_feat(inputs)
            return (x, *self.rpn_head(x))
        raise ValueError(f"forward: mode must be 'loss', 'predict' or 'tensor', got {mode!r}")

    def loss(self, inputs: Tensor, data_samples: list) -> dict:
        """All losses by name."""
        x = self.extract_feat(inputs)
        losses, proposals = self.rpn_head.loss_and_predict(
            x, data_samples, self.train_cfg.get('rpn_proposal', self.test_cfg.get('rpn'))
        )
        losses.update(self.roi_head.loss(x, proposals, data_samples))
        return losses

    def predict(self, inputs: Tensor, data_samples: list, rescale: bool = True) -> list:
        """The data samples with ``pred_instances``: bboxes (K, 4), scores, labels, masks (K, H, W).

        Args:
            rescale: in pixels of the original images.
        """
        x = self.extract_feat(inputs)
        proposals = self.rpn_head.predict(x, data_samples)
        for sample, instances in zip(data_samples, self.roi_head.predict(x, proposals, data_samples, rescale)):
            sample.pred_instances = instances
        return data_samples


@MODELS.register_module()
class FasterRCNN(TwoStageDetector):
    """Boxes."""


@MODELS.register_module()
class MaskRCNN(TwoStageDetector):
    """Boxes and masks."""
