"""Changes to a whole batch in training."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mmdet.mmdetection.arguments import accepts
from mmdet.registry import MODELS


@MODELS.register_module()
@accepts('seg_pad_value', pad_seg=False)
class BatchFixedSizePad(nn.Module):
    """Pads batches at the right and below to one size (large-scale jittering, Ghiasi et al., CVPR 2021).

    Args:
        size: (height, width) in pixels; larger batches stay as they are.
        img_pad_value: padding of the normalized images.
        pad_mask, mask_pad_value: pad the masks of the ground truth as well, with this value.

    Example:
        In a config::

            data_preprocessor=dict(
                type='DetDataPreprocessor', batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024))]
            )
    """

    def __init__(
        self, size: Sequence[int], img_pad_value: float = 0, pad_mask: bool = False, mask_pad_value: int = 0
    ) -> None:
        super().__init__()
        self.size = tuple(size)
        self.img_pad_value = img_pad_value
        self.pad_mask = pad_mask
        self.mask_pad_value = mask_pad_value

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
        return inputs, data_samples
