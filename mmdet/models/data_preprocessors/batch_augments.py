"""Changes to a whole batch in training."""

from collections.abc import Sequence

from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.nn import functional as F

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample


def pad_sem_seg(sample: DetDataSample, shape: Sequence[int], value: int) -> None:
    """Pad ``gt_sem_seg`` of a sample, where there is one, at the right and below to ``shape`` (height, width)."""
    if 'gt_sem_seg' in sample:
        old = sample.gt_sem_seg.sem_seg
        padding = (0, max(shape[1] - old.shape[-1], 0), 0, max(shape[0] - old.shape[-2], 0))
        sample.gt_sem_seg = PixelData(sem_seg=F.pad(old, padding, value=value))


@MODELS.register_module()
class BatchFixedSizePad(nn.Module):
    """Pads batches at the right and below to one size (large-scale jittering, Ghiasi et al., CVPR 2021).

    Args:
        size: (height, width) in pixels; larger batches stay as they are.
        img_pad_value: padding of the normalized images.
        pad_mask, mask_pad_value: pad the masks of the ground truth as well, with this value.
        pad_seg, seg_pad_value: the same of its maps of classes, ``gt_sem_seg``.

    Example:
        In a config::

            data_preprocessor=dict(
                type='DetDataPreprocessor', batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024))]
            )
    """

    def __init__(
        self,
        size: Sequence[int],
        img_pad_value: float = 0,
        pad_mask: bool = False,
        mask_pad_value: int = 0,
        pad_seg: bool = False,
        seg_pad_value: int = 255,
    ) -> None:
        super().__init__()
        self.size = tuple(size)
        self.img_pad_value = img_pad_value
        self.pad_mask = pad_mask
        self.mask_pad_value = mask_pad_value
        self.pad_seg = pad_seg
        self.seg_pad_value = seg_pad_value

    def forward(self, inputs: Tensor, data_samples: list | None = None) -> tuple[Tensor, list | None]:
        """Pad a batch and its samples.

        Args:
            inputs: normalized images (N, 3, H, W).
            data_samples: their DetDataSamples, or None.

        Returns:
            The images (N, 3, max(H, height), max(W, width)), and the same samples, which now have this size as
            ``batch_input_shape`` and ``pad_shape``. Boxes need no change.
        """
        height, width = (max(old, new) for old, new in zip(inputs.shape[-2:], self.size))
        inputs = F.pad(inputs, (0, width - inputs.shape[-1], 0, height - inputs.shape[-2]), value=self.img_pad_value)
        for sample in data_samples or ():
            sample.set_metainfo(dict(batch_input_shape=(height, width), pad_shape=(height, width)))
            if self.pad_mask and 'masks' in sample.gt_instances:
                sample.gt_instances.masks = sample.gt_instances.masks.pad((height, width), self.mask_pad_value)
            if self.pad_seg:
                pad_sem_seg(sample, (height, width), self.seg_pad_value)
        return inputs, data_samples
