"""ResNet (He et al., CVPR 2016) and ResNeXt (Xie et al., CVPR 2017)."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_conv_layer
from mmengine.model import BaseModule, constant_init
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet.mmdetection.arguments import ArgumentError, accepts
from mmdet.models.layers import ResLayer
from mmdet.ops.norm import conv_norm
from mmdet.registry import MODELS, build_norm_layer

from .residual_block import STYLES, BasicBlock, Bottleneck, ResidualBlock


class ResidualStages(BaseModule):
    """Has what ResNet and a single stage of it as a shared head (:class:`.ResLayer`) have in common.

    Args:
        depth: 18, 34, 50, 101 or 152, a key of ``arch_settings``: kind of the blocks and their number in each stage.
        style: 'pytorch' or 'caffe', see :class:`Bottleneck`.
        norm_eval: all batch norms, CBN among them, use running statistics in training too.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)``, or None: at random.

    Raises:
        ValueError: a depth or style there is not.
    """

    arch_settings: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
        18: (BasicBlock, (2, 2, 2, 2)),
        34: (BasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
    }

    def __init__(self, depth: int, style: str, norm_eval: bool, init_cfg: dict | list | None) -> None:
        name = type(self).__name__
        if depth not in self.arch_settings:
            raise ArgumentError(f'{name}: depth must be one of {sorted(self.arch_settings)}, got {depth!r}')
        if style not in STYLES:
            raise ArgumentError(f"{name}: style must be 'pytorch' or 'caffe', got {style!r}")
        several = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg or {}]
        self.pretrained = any(one.get('type') == 'Pretrained' for one in several)
        if init_cfg is None:
            init_cfg = [
                dict(type='Kaiming', layer='Conv2d'),
                dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
            ]
        super().__init__(init_cfg)
        self.norm_eval = norm_eval

    def make_res_layer(self, **kwargs) -> nn.Sequential:
        """Build a stage, :class:`~mmdet.models.layers.ResLayer` with these arguments."""
        return ResLayer(**kwargs)

    def train(self, mode: bool = True) -> 'ResidualStages':
        """Set training mode; with ``norm_eval`` the batch norms stay in evaluation mode."""
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


@MODELS.register_module()
@accepts('stage_with_dcn', deep_stem=False, dcn=None, plugins=None)
class ResNet(ResidualStages):
    """Computes feature maps of several strides from images with a residual network (He et al., CVPR 2016).

    Images (N, in_channels, H, W) become a tuple of maps, one for each of ``out_indices``. With the defaults stage i,
    from 0, has stride 4 * 2^i and 64 * 2^i channels for depth 18 and 34, four times as many for 50 and deeper; odd
    sizes are rounded up. Parameters have torchvision's names.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: of the images.
        stem_channels: of the stem, by default ``base_channels``.
        base_channels: of the first stage, divided by its blocks' expansion.
        num_stages, strides, dilations: number of stages, 1 to 4, and stride and dilation of each.
        out_indices: stages whose outputs are returned, from 0.
        style: 'pytorch' or 'caffe', see :class:`Bottleneck`.
        avg_down: see :class:`~mmdet.models.layers.ResLayer`.
        frozen_stages: the stem and so many stages are not trained (their norms in evaluation mode); 0: the stem only;
            -1: none.
        conv_cfg: kind of every convolution, for instance ``dict(type='ConvWS')``; None: ordinary ones.
        norm_cfg: of every norm; ``requires_grad=False`` freezes weight and bias.
        norm_eval: all batch norms, CBN among them, use running statistics in training too.
        with_cp: activation checkpointing: less memory, more time.
        zero_init_residual: weight and bias of a block's last norm start at 0 in training from scratch.
        groups, base_width: see :class:`ResNeXt`.
        pretrained: the old name of ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a path, a URL or ``torchvision://resnet50``; None
            initializes at random.

    Raises:
        ValueError: a depth or style there is not; ``out_indices`` beyond ``num_stages``; groups of a depth without
            bottlenecks.
        FileNotFoundError: pretrained weights that cannot be had.

    Example:
        >>> import torch
        >>> from mmdet.registry import MODELS
        >>> backbone = MODELS.build(dict(type='ResNet', depth=50, out_indices=(2, 3)))
        >>> [tuple(x.shape) for x in backbone(torch.zeros(1, 3, 64, 96))]
        [(1, 1024, 4, 6), (1, 2048, 2, 3)]
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        stem_channels: int | None = None,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: str = 'pytorch',
        avg_down: bool = False,
        frozen_stages: int = -1,
        conv_cfg: dict | None = None,
        norm_cfg: dict = dict(type='BN', requires_grad=True),
        norm_eval: bool = True,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        groups: int = 1,
        base_width: int = 4,
        pretrained: str | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        if pretrained is not None:
            if init_cfg is not None or not isinstance(pretrained, str):
                raise TypeError(
                    f'{type(self).__name__}: pretrained must be a path or URL, and without init_cfg, got '
                    f'{pretrained!r}; '
                    "init_cfg=dict(type='Pretrained', checkpoint=...) is its new name"
                )
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        super().__init__(depth, style, norm_eval, init_cfg)
        if not 1 <= num_stages <= 4 or max(out_indices) >= num_stages:
            raise ArgumentError(
                f'{type(self).__name__}: out_indices={tuple(out_indices)} must be below '
                f'num_stages={num_stages}, at most 4'
            )
        if min(len(strides), len(dilations)) < num_stages:
            raise ArgumentError(
                f'{type(self).__name__}: strides={tuple(strides)} and dilations={tuple(dilations)} must have '
                f'one for each of num_stages={num_stages}'
            )
        self.depth = depth
        self.base_channels = base_channels
        self.num_stages = num_stages
        self.strides, self.dilations = strides, dilations
        self.style = style
        self.avg_down = avg_down
        self.with_cp = with_cp
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.zero_init_residual = zero_init_residual

        self.stem_channels = stem_channels or base_channels
        self._make_stem_layer(in_channels, self.stem_channels)
        block, numbers = self.block, self.stage_blocks = self.arch_settings[depth]
        if groups != 1 and block is not Bottleneck:
            raise ArgumentError(f'{type(self).__name__}: groups={groups} needs a depth of 50 or more, got {depth}')
        self.inplanes = self.stem_channels
        self.res_layers = []
        for i in range(num_stages):
            options: dict[str, Any] = dict(dilation=dilations[i], style=style, with_cp=with_cp)
            if groups != 1:
                options.update(groups=groups, base_width=base_width, base_channels=base_channels)
            planes = base_channels * 2**i
            stage = self.make_res_layer(
                block=block,
                inplanes=self.inplanes,
                planes=planes,
                num_blocks=numbers[i],
                stride=strides[i],
                avg_down=avg_down,
                norm_cfg=norm_cfg,
                conv_cfg=conv_cfg,
                **options,
            )
            self.inplanes = planes * block.expansion
            self.add_module(f'layer{i + 1}', stage)
            self.res_layers.append(f'layer{i + 1}')
        self.feat_dim = self.inplanes
        self._freeze_stages()

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        self.conv1 = build_conv_layer(self.conv_cfg, in_channels, stem_channels, 7, stride=2, padding=3, bias=False)
        self.norm1_name, norm1 = build_norm_layer(self.norm_cfg, stem_channels, 1)
        self.add_module(self.norm1_name, norm1)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

    @property
    def norm1(self) -> nn.Module:
        """Return the norm of the stem, whatever its kind."""
        return getattr(self, self.norm1_name)

    def init_weights(self) -> None:
        """Set the weights by ``init_cfg``; with ``zero_init_residual`` every block then starts as its shortcut."""
        super().init_weights()
        if self.zero_init_residual and not self.pretrained:
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    constant_init(module.last_norm, 0)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for part in [self.conv1, self.norm1, *(getattr(self, name) for name in self.res_layers[: self.frozen_stages])]:
            part.eval()
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> 'ResNet':
        """Set training mode; frozen stages, and with ``norm_eval`` all batch norms, stay in evaluation mode."""
        super().train(mode)
        self._freeze_stages()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x: normalized images (N, in_channels, H, W).

        Returns:
            A map (N, C_i, H_i, W_i) for each of ``out_indices``, the largest first.
        """
        x = self.maxpool(self.relu(conv_norm(self.conv1, self.norm1, x)))
        outputs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outputs.append(x)
        return tuple(outputs)


@MODELS.register_module()
class ResNeXt(ResNet):
    """Computes feature maps with a ResNet whose 3x3 convolutions are grouped (Xie et al., CVPR 2017).

    It has ``groups`` groups of ``base_width`` channels in the first stage, and groups twice as wide in each further
    stage. One group gives ResNet. The depth is 50, 101 or 152; all else is as in :class:`ResNet`.

    Example:
        ResNeXt-101 32x4d in a config::

            backbone=dict(type='ResNeXt', depth=101, groups=32, base_width=4)
    """

    arch_settings = {depth: ResNet.arch_settings[depth] for depth in (50, 101, 152)}
