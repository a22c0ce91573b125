"""Faster R-CNN (Ren et al., NeurIPS 2015) and Mask R-CNN (He et al., ICCV 2017)."""

import logging

import torch
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample

from .base import BaseDetector
from .fit import check_fit


@MODELS.register_module()
class TwoStageDetector(BaseDetector):
    """Detects objects with a backbone, a neck, a network that proposes regions, and heads on these regions.

    Args:
        backbone, neck, rpn_head, roi_head: configs of the parts; without a neck the heads take the backbone's maps.
        train_cfg: ``rpn`` and ``rcnn``, the ``train_cfg`` of the heads; ``rpn_proposal``, how proposals are made in
            training, by default as in testing.
        test_cfg: ``rpn`` and ``rcnn``, the ``test_cfg`` of the heads.
        data_preprocessor: for instance :class:`.DetDataPreprocessor`, which makes a batch of what the data loader
            gives.
        init_cfg: of the whole model, for instance ``dict(type='Pretrained', checkpoint=...)``.

    Raises:
        ValueError: no ``rpn_head`` or no ``roi_head``; parts that do not fit each other, see :func:`.check_fit`.
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
        if rpn_head.get('num_classes', 1) != 1:
            print_log(
                f'model.rpn_head.num_classes: {rpn_head["num_classes"]} is taken as 1; proposals have no class',
                'current',
                logging.WARNING,
            )
            rpn_head = dict(rpn_head, num_classes=1)
        self.rpn_head = MODELS.build(dict(rpn_head, train_cfg=train_cfg.get('rpn'), test_cfg=test_cfg.get('rpn')))
        self.roi_head = MODELS.build(dict(roi_head, train_cfg=train_cfg.get('rcnn'), test_cfg=test_cfg.get('rcnn')))
        check_fit(self)

    @property
    def with_rpn(self) -> bool:
        """Return whether there is a network that proposes regions."""
        return self._has('rpn_head')

    @property
    def with_roi_head(self) -> bool:
        """Return whether there are heads on regions."""
        return self._has('roi_head')

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute feature maps.

        Args:
            batch_inputs: normalized images (N, 3, H, W).

        Returns:
            Maps (N, C_i, H_i, W_i), the largest first.
        """
        x = self.backbone(batch_inputs)
        return x if self.neck is None else self.neck(x)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None) -> tuple:
        """A tuple of what the RoI head's ``forward`` returns."""
        shape = tuple(batch_inputs.shape[-2:])
        samples = batch_data_samples or [DetDataSample(metainfo=dict(img_shape=shape)) for _ in batch_inputs]
        x = self.extract_feat(batch_inputs)
        return (self.roi_head(x, self._proposals(x, samples), samples),)

    def _proposals(self, x: tuple[Tensor, ...], samples: list) -> list[InstanceData]:
        """The samples' own proposals, if they have some, or the region proposal network's."""
        if samples and samples[0].get('proposals') is not None:
            return [sample.proposals for sample in samples]
        return self.rpn_head.predict(x, samples, rescale=False)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict:
        """Compute all losses.

        Args:
            batch_inputs: normalized images (N, 3, H, W).
            batch_data_samples: N DetDataSamples with ``gt_instances``: bboxes (K, 4) in pixels of the input, labels
                (K,) and, for a mask head, masks.

        Returns:
            ``loss_rpn_cls`` and ``loss_rpn_bbox``, lists of a scalar for each level; ``loss_cls``, ``loss_bbox`` and
            ``acc`` of the box head (``acc``, in percent, is not optimized); with a mask head ``loss_mask``.
        """
        x = self.extract_feat(batch_inputs)
        classless = []
        for sample in batch_data_samples:
            objects = InstanceData(**dict(sample.gt_instances.items()))
            objects.labels = torch.zeros_like(objects.labels)
            classless.append(sample.new())
            classless[-1].gt_instances = objects
        losses, proposals = self.rpn_head.loss_and_predict(
            x, classless, proposal_cfg=self.train_cfg.get('rpn_proposal', self.test_cfg.get('rpn'))
        )
        # A head may name its losses as the box head does; the log then has both.
        losses = {
            f'rpn_{name}' if 'loss' in name and 'rpn' not in name else name: value for name, value in losses.items()
        }
        losses.update(self.roi_head.loss(x, proposals, batch_data_samples))
        return losses

    def predict(self, batch_inputs: Tensor, batch_data_samples: list, rescale: bool = True) -> list:
        """Detect objects.

        Args:
            batch_inputs: normalized images (N, 3, H, W).
            batch_data_samples: N DetDataSamples, whose metainfo has ``img_shape``, ``ori_shape`` and ``scale_factor``.
                Those with ``proposals``, with bboxes (K, 4) in pixels of the input, need no region proposal network.
            rescale: in pixels of the original images instead of the network's input.

        Returns:
            The same samples with ``pred_instances``: bboxes (K, 4), scores (K,) from 0 to 1, falling, labels (K,) and,
            with a mask head, masks (K, H', W') bool of the whole image.
        """
        x = self.extract_feat(batch_inputs)
        proposals = self._proposals(x, batch_data_samples)
        results = self.roi_head.predict(x, proposals, batch_data_samples, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, results)


@MODELS.register_module()
class FasterRCNN(TwoStageDetector):
    """Detects objects as boxes with a class and a score, in two stages (Faster R-CNN, Ren et al., NeurIPS 2015).

    The first stage, :class:`.RPNHead`, proposes regions; the second, :class:`.StandardRoIHead` with a box head, gives
    each a class and a better box. Arguments, inputs and outputs are :class:`TwoStageDetector`'s.

    Example:
        With a config that has ``model=dict(type='FasterRCNN', ...)``::

            from mmdet.apis import inference_detector, init_detector

            model = init_detector('configs/faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'epoch_12.pth')
            found = inference_detector(model, 'image.jpg').pred_instances
            found.bboxes, found.scores, found.labels  # (K, 4) in pixels of the image, (K,), (K,)
    """


@MODELS.register_module()
class MaskRCNN(TwoStageDetector):
    """Detects objects as boxes with a class, a score and a mask, in two stages (Mask R-CNN, He et al., ICCV 2017).

    It is :class:`FasterRCNN` whose ``roi_head`` has a ``mask_head``, which draws a mask of each detection; training
    needs ground truth with masks. Arguments, inputs and outputs are :class:`TwoStageDetector`'s.

    Example:
        With a config that has ``model=dict(type='MaskRCNN', ...)``::

            from mmdet.apis import inference_detector, init_detector

            model = init_detector('configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'epoch_12.pth')
            found = inference_detector(model, 'image.jpg').pred_instances
            found.masks  # (K, H, W) bool, of the size of the image
    """
