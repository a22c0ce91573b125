"""Changes to a whole batch in training."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mmdet.registry import MODELS


@MODELS.register_module()
class BatchFixedSizePad(nn.Module):
    """Pads batches at the right and below to one size (large-scale jittering, Ghiasi et al., CVPR 2021).

    Args:
        size: (height, width); larger batches stay as they are.
        img_pad_value: padding of the normalized images.
        pad_mask, mask_pad_value: pad the masks of the ground truth as well.
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
        """Images (N, 3, H, W) and their samples, padded."""
        height, width = (max(old, new) for old, new in zip(inputs.shape[-2:], self.size))
        inputs = F.pad(inputs, (0, width - inputs.shape[-1], 0, height - inputs.shape[-2]), value=self.img_pad_value)
        for sample in data_samples or ():
            sample.set_metainfo(dict(batch_input_shape=(height, width), pad_shape=(height, width)))
            if self.pad_mask and 'masks' in sample.gt_instances:
                sample.gt_instances.masks = sample.gt_instances.masks.pad((height, width), self.mask_pad_value)
        return inputs, data_samples
