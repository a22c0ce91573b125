"""A stage of a residual network."""

from typing import Any

from mmcv.cnn import build_conv_layer
from torch import nn

from mmdet.registry import build_norm_layer


class ResLayer(nn.Sequential):
    """Holds the blocks of one stage of a ResNet, for backbones of one's own.

    Args:
        block: class of the blocks, with ``inplanes``, ``planes``, ``stride``, ``downsample``, ``norm_cfg``,
            ``conv_cfg`` and ``kwargs`` as arguments.
        inplanes, planes: channels of the stage's input, and of the output divided by ``block.expansion``.
        num_blocks: number of blocks.
        stride: of the first block; of the last one without ``downsample_first``.
        avg_down: a shortcut with a stride is an average pool and a convolution (ResNet-D, He et al., CVPR 2019).
        conv_cfg, norm_cfg: of all convolutions and norms.
        downsample_first: whether the first block has the stride and the further channels.
        kwargs: of each block: ``dilation``, ``style``, ``with_cp`` and others.
    """

    def __init__(
        self,
        block: Any,
        inplanes: int,
        planes: int,
        num_blocks: int,
        stride: int = 1,
        avg_down: bool = False,
        conv_cfg: dict | None = None,
        norm_cfg: dict = dict(type='BN'),
        downsample_first: bool = True,
        **kwargs,
    ) -> None:
        outplanes = planes * block.expansion
        changing = 0 if downsample_first else num_blocks - 1
        blocks = []
        for i in range(num_blocks):
            own, downsample = stride if i == changing else 1, None
            if i == changing and (stride != 1 or inplanes != outplanes):
                pool = [nn.AvgPool2d(own, own, ceil_mode=True, count_include_pad=False)] if avg_down else []
                conv = build_conv_layer(conv_cfg, inplanes, outplanes, 1, stride=1 if avg_down else own, bias=False)
                downsample = nn.Sequential(*pool, conv, build_norm_layer(norm_cfg, outplanes)[1])
            channels = outplanes if downsample_first or i == changing else inplanes
            common = dict(downsample=downsample, norm_cfg=norm_cfg, conv_cfg=conv_cfg, **kwargs)
            blocks.append(block(inplanes=inplanes, planes=channels // block.expansion, stride=own, **common))
            inplanes = channels
        super().__init__(*blocks)
