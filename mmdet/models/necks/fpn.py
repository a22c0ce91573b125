"""Feature Pyramid Network (Lin et al., CVPR 2017)."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmdet.mmdetection.arguments import ArgumentError
from mmdet.models.layers import ConvModule
from mmdet.registry import MODELS


@MODELS.register_module()
class FPN(BaseModule):
    """Mixes a backbone's maps into a pyramid of maps with the same number of channels (Lin et al., FPN, CVPR 2017).

    Each map goes through a 1x1 convolution; from the smallest on, each is upsampled and added to the next larger one; a
    3x3 convolution of each sum is an output.

    Args:
        in_channels: of the inputs, from the largest map to the smallest.
        out_channels: of every output.
        num_outs: number of outputs; those beyond the inputs are halved from the last.
        start_level, end_level: the inputs used; ``end_level`` is the last of them, -1 for the last there is.
        add_extra_convs: how further outputs are made: False by max pooling; 'on_input', 'on_lateral' or 'on_output'
            (True is 'on_input') by a convolution of stride 2 on the backbone's last map, the last lateral one, or the
            last output.
        relu_before_extra_convs: a ReLU before each of these but the first.
        no_norm_on_lateral: leave the norm out of the lateral convolutions.
        conv_cfg, norm_cfg, act_cfg: of every convolution; see :class:`.ConvModule`.
        upsample_cfg: arguments of ``torch.nn.functional.interpolate``.

    Raises:
        ValueError: levels that do not fit ``in_channels``, another ``add_extra_convs``.

    Example:
        Maps of stride 4, 8, 16, 32 and 64 behind a ResNet-50::

            neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5)
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        upsample_cfg: dict = dict(mode='nearest'),
        init_cfg: dict | list | None = dict(type='Xavier', layer='Conv2d', distribution='uniform'),
    ) -> None:
        super().__init__(init_cfg)
        last = len(in_channels) if end_level == -1 else end_level + 1
        inner = last < len(in_channels)  # further maps are made behind the backbone's last alone
        fits = num_outs == last - start_level if inner else num_outs >= last - start_level
        if not 0 <= start_level < last <= len(in_channels) or not fits:
            raise ArgumentError(
                f'FPN: start_level={start_level}, end_level={end_level}, num_outs={num_outs} do not fit '
                f'{len(in_channels)} inputs'
            )
        if add_extra_convs is True:
            add_extra_convs = 'on_input'
        if add_extra_convs not in (False, 'on_input', 'on_lateral', 'on_output'):
            raise ArgumentError(
                "FPN: add_extra_convs must be False, True, 'on_input', 'on_lateral' or 'on_output', got "
                f'{add_extra_convs!r}'
            )
        self.in_channels = list(in_channels)
        self.out_channels = out_channels
        self.num_ins = len(in_channels)
        self.start_level, self.end_level = start_level, end_level
        self.backbone_end_level = last
        self.no_norm_on_lateral = no_norm_on_lateral
        self.num_outs = num_outs
        self.add_extra_convs = add_extra_convs
        self.relu_before_extra_convs = relu_before_extra_convs
        self.upsample_cfg = dict(upsample_cfg)
        common: dict[str, Any] = dict(conv_cfg=conv_cfg, act_cfg=act_cfg, inplace=False)
        self.lateral_convs = nn.ModuleList(
            ConvModule(channels, out_channels, 1, norm_cfg=None if no_norm_on_lateral else norm_cfg, **common)
            for channels in in_channels[start_level:last]
        )
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, **common)
            for _ in self.lateral_convs
        )
        if add_extra_convs:
            for i in range(num_outs - len(self.lateral_convs)):
                channels = in_channels[last - 1] if i == 0 and add_extra_convs == 'on_input' else out_channels
                self.fpn_convs.append(
                    ConvModule(channels, out_channels, 3, stride=2, padding=1, norm_cfg=norm_cfg, **common)
                )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Compute the pyramid.

        Args:
            inputs: the backbone's maps (N, C_i, H_i, W_i), the largest first.

        Returns:
            ``num_outs`` maps (N, out_channels, H_i, W_i), from that of ``start_level`` on; each further one has half
            the height and width of the one before, rounded up.

        Raises:
            ValueError: another number of inputs than ``in_channels`` has.
        """
        if len(inputs) != len(self.in_channels):
            raise ArgumentError(f'FPN: in_channels names {len(self.in_channels)} inputs, got {len(inputs)}')
        used = inputs[self.start_level : self.backbone_end_level]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, used)]
        for i in range(len(laterals) - 1, 0, -1):
            cfg = self.upsample_cfg
            size = {} if 'scale_factor' in cfg else dict(size=laterals[i - 1].shape[2:])
            # in place: nobody else has what is made of it
            laterals[i - 1] = F.interpolate(laterals[i], **size, **cfg).add_(laterals[i - 1])
        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        number = len(laterals)
        if not self.add_extra_convs:
            while len(outs) < self.num_outs:
                outs.append(F.max_pool2d(outs[-1], 1, stride=2))
            return tuple(outs)
        source = dict(on_input=used[-1], on_lateral=laterals[-1], on_output=outs[-1])
        x = source[self.add_extra_convs]
        for i, conv in enumerate(self.fpn_convs[number:]):
            x = conv(F.relu(x) if i and self.relu_before_extra_convs else x)
            outs.append(x)
        return tuple(outs)
