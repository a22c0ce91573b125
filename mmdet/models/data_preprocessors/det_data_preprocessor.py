"""From loaded images to a normalized batch on the device."""

import logging
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import ImgDataPreprocessor

from mmdet.mmdetection.arguments import accepts
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample

from .batch_augments import pad_sem_seg


@MODELS.register_module()
@accepts(boxtype2tensor=True)
class DetDataPreprocessor(ImgDataPreprocessor):
    """Moves a batch to the device, reorders channels, normalizes, and pads to one size at the right and below.

    Args:
        mean, std: of the channels after ``bgr_to_rgb``, in grey levels (0 to 255); None leaves the images as they are.
        pad_size_divisor: height and width of the batch are multiples of this.
        pad_value: padding of the normalized images.
        pad_mask, mask_pad_value: in training pad the masks of the ground truth as well, with this value.
        pad_seg, seg_pad_value: the same of its maps of classes, ``gt_sem_seg``.
        bgr_to_rgb, rgb_to_bgr: swap the first and the last channel.
        non_blocking: copy to the device without waiting.
        batch_augments: parts that change a batch in training, as :class:`BatchFixedSizePad`.

    Raises:
        ValueError: a number of ``std`` that is not above 0.

    Example:
        For images read as BGR and weights of torchvision, which were trained on RGB::

            data_preprocessor=dict(
                type='DetDataPreprocessor',
                mean=[123.675, 116.28, 103.53],
                std=[58.395, 57.12, 57.375],
                bgr_to_rgb=True,
                pad_mask=True,
                pad_size_divisor=32,
            )
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pad_size_divisor: int = 1,
        pad_value: float = 0,
        pad_mask: bool = False,
        mask_pad_value: int = 0,
        pad_seg: bool = False,
        seg_pad_value: int = 255,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        non_blocking: bool = False,
        batch_augments: Sequence[dict] | None = None,
    ) -> None:
        if std is not None and not all(number > 0 for number in std):
            raise ValueError(f'{type(self).__name__}: std must be above 0, got {std}')
        if mean is not None and std is not None and max(mean) <= 1 and max(std) < 1:
            print_log(
                f'{type(self).__name__}: mean={mean} and std={std} look like those of images from 0 to 1; here they '
                'have grey levels from 0 to 255: multiply both by 255',
                'current',
                logging.WARNING,
            )
        super().__init__(mean, std, pad_size_divisor, pad_value, bgr_to_rgb, rgb_to_bgr, non_blocking)
        self.pad_mask = pad_mask
        self.mask_pad_value = mask_pad_value
        self.pad_seg = pad_seg
        self.seg_pad_value = seg_pad_value
        self.batch_augments = [MODELS.build(part) for part in batch_augments or ()]

    def forward(self, data: dict, training: bool = False) -> dict:
        """Make a batch of loaded images.

        Args:
            data: ``inputs``, a list of uint8 (3, H, W) images; ``data_samples``, their DetDataSamples or None.
            training: pad masks and run the ``batch_augments`` as well.

        Returns:
            ``inputs`` float32 (N, 3, H', W') on the device, on the CPU in channels-last memory, and ``data_samples``. A
            sample's metainfo has ``batch_input_shape``, (H', W'), and ``pad_shape``, the image's own size rounded up to
            multiples of ``pad_size_divisor``, both (height, width).
        """
        shapes = self._get_pad_shape(data)
        data = super().forward(data, training)
        samples = data.get('data_samples')
        if samples is not None:
            batch_shape = tuple(data['inputs'].shape[-2:])
            for sample, shape in zip(samples, shapes):
                sample.set_metainfo(dict(batch_input_shape=batch_shape, pad_shape=shape))
            if self.pad_mask and training:
                self.pad_gt_masks(samples)
            if self.pad_seg and training:
                self.pad_gt_sem_seg(samples)
        if training:
            for augment in self.batch_augments:
                data['inputs'], data['data_samples'] = augment(data['inputs'], data['data_samples'])
        if data['inputs'].device.type == 'cpu':
            # So are all maps behind it: convolutions need not reorder them, and RoIAlign takes them as they are.
            data['inputs'] = data['inputs'].contiguous(memory_format=torch.channels_last)
        return data

    def _get_pad_shape(self, data: dict) -> list[tuple[int, ...]]:
        """(height, width) of each image, rounded up."""
        divisor = self.pad_size_divisor
        return [tuple(-(-side // divisor) * divisor for side in image.shape[-2:]) for image in data['inputs']]

    def pad_gt_masks(self, batch_data_samples: Sequence[DetDataSample]) -> None:
        """Pad the masks of the ground truth, where there are some, to each sample's ``batch_input_shape``."""
        for sample in batch_data_samples:
            if 'masks' in sample.gt_instances:
                sample.gt_instances.masks = sample.gt_instances.masks.pad(sample.batch_input_shape, self.mask_pad_value)

    def pad_gt_sem_seg(self, batch_data_samples: Sequence[DetDataSample]) -> None:
        """Pad the maps of classes, where there are some, to each sample's ``batch_input_shape``."""
        for sample in batch_data_samples:
            pad_sem_seg(sample, sample.batch_input_shape, self.seg_pad_value)
