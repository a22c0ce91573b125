"""Residual blocks (He et al., CVPR 2016)."""

from mmcv.cnn import build_conv_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdet.mmdetection.arguments import accepts
from mmdet.ops.norm import CBN, CBNPlus, SyncBN, SyncCBN, conv_norm
from mmdet.ops.paths import unobserved
from mmdet.registry import build_norm_layer

STYLES = ('pytorch', 'caffe')
_OWN_NORMS = (CBN, CBNPlus, SyncBN, SyncCBN)


@accepts(dcn=None, plugins=None)
class ResidualBlock(BaseModule):
    """Adds to its input what convolutions conv1, conv2, ..., each with its norm, make of it.

    Args:
        inplanes: channels of the input.
        planes: width of the block; the output has ``expansion`` times as many channels.
        stride: how much smaller the output is, sides rounded up.
        dilation: of the first 3x3 convolution.
        downsample: of the shortcut, where the shapes differ.
        style: 'pytorch' or 'caffe', see :class:`Bottleneck`.
        with_cp: activation checkpointing: less memory, more time.
        conv_cfg, norm_cfg: of the convolutions and norms.
        kwargs: of :class:`Bottleneck`'s groups.

    Raises:
        AssertionError: a style there is not.
    """

    expansion: int

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        downsample: nn.Module | None = None,
        style: str = 'pytorch',
        with_cp: bool = False,
        conv_cfg: dict | None = None,
        norm_cfg: dict = dict(type='BN'),
        init_cfg: dict | list | None = None,
        **kwargs,
    ) -> None:
        super().__init__(init_cfg)
        assert style in STYLES, f"{type(self).__name__}: style must be 'pytorch' or 'caffe', got {style!r}"
        self.stride, self.dilation = stride, dilation
        self.norm_names = []
        shapes = self._shapes(planes, stride, dilation, style, **kwargs)
        for i, (channels, kernel, stride, dilation, groups) in enumerate(shapes, 1):
            conv = build_conv_layer(
                conv_cfg,
                inplanes,
                channels,
                kernel,
                stride=stride,
                dilation=dilation,
                padding=dilation * (kernel // 2),
                groups=groups,
                bias=False,
            )
            name, norm = build_norm_layer(norm_cfg, channels, i)
            self.add_module(f'conv{i}', conv)
            self.add_module(name, norm)
            setattr(self, f'norm{i}_name', name)
            self.norm_names.append(name)
            inplanes = channels
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.with_cp = with_cp

    @staticmethod
    def _shapes(planes: int, stride: int, dilation: int, style: str) -> list[tuple[int, int, int, int, int]]:
        """Of the convolutions: out channels, kernel size, stride, dilation, groups."""
        raise NotImplementedError

    @property
    def norm1(self) -> nn.Module:
        """Return the norm behind the first convolution, whatever its kind."""
        return getattr(self, self.norm_names[0])

    @property
    def norm2(self) -> nn.Module:
        """Return the norm behind the second convolution."""
        return getattr(self, self.norm_names[1])

    @property
    def last_norm(self) -> nn.Module:
        return getattr(self, self.norm_names[-1])

    def _residual(self, x: Tensor) -> Tensor:
        out = x
        for i, name in enumerate(self.norm_names, 1):
            if i > 1:
                out = self.relu(out)
            out = conv_norm(getattr(self, f'conv{i}'), getattr(self, name), out)
        x = x if self.downsample is None else self._shortcut(self.downsample, x)
        # These norms do not need what they return for their gradient; memory for a sum is not for nothing.
        own = type(self.last_norm) in (nn.BatchNorm2d, nn.GroupNorm, *_OWN_NORMS) and unobserved(x, self.last_norm)
        return out.add_(x) if own else out + x

    @staticmethod
    def _shortcut(downsample: nn.Module, x: Tensor) -> Tensor:
        parts = list(downsample) if isinstance(downsample, nn.Sequential) else []
        if len(parts) == 3 and isinstance(parts[0], nn.AvgPool2d):
            x = parts.pop(0)(x)
        if len(parts) != 2:
            return downsample(x)
        conv, norm = parts
        return conv_norm(conv, norm, x)

    def forward(self, x: Tensor) -> Tensor:
        if self.with_cp and x.requires_grad:
            return self.relu(checkpoint(self._residual, x, use_reentrant=False))
        return self.relu(self._residual(x))


class BasicBlock(ResidualBlock):
    """Computes a residual block of two 3x3 convolutions (He et al., CVPR 2016), as in ResNet-18 and ResNet-34.

    A map (N, inplanes, H, W) becomes (N, planes, H / stride, W / stride), sides rounded up. Stride and dilation are the
    first convolution's; ``style`` is without effect. Arguments are :class:`ResidualBlock`'s.
    """

    expansion = 1

    @staticmethod
    def _shapes(planes: int, stride: int, dilation: int, style: str) -> list[tuple[int, int, int, int, int]]:
        return [(planes, 3, stride, dilation, 1), (planes, 3, 1, 1, 1)]


class Bottleneck(ResidualBlock):
    """Computes a residual block of 1x1, 3x3 and 1x1 convolutions (He et al., CVPR 2016), as in ResNet-50 and deeper.

    A map (N, inplanes, H, W) becomes (N, 4 * planes, H / stride, W / stride), sides rounded up. The stride is the 3x3
    convolution's ('pytorch') or the first 1x1's ('caffe'), by ``style``. Arguments are :class:`ResidualBlock`'s, and of
    the 3x3 convolution ``groups`` (by default 1), ``base_width`` (4) and ``base_channels`` (64): so many groups, of
    ``base_width`` channels each where ``planes`` is ``base_channels``, and in proportion; one group is ``planes`` wide.
    """

    expansion = 4

    @property
    def norm3(self) -> nn.Module:
        """Return the norm behind the third convolution."""
        return getattr(self, self.norm_names[2])

    @staticmethod
    def _shapes(
        planes: int,
        stride: int,
        dilation: int,
        style: str,
        groups: int = 1,
        base_width: int = 4,
        base_channels: int = 64,
    ) -> list[tuple[int, int, int, int, int]]:
        first, second = (1, stride) if style == 'pytorch' else (stride, 1)
        width = planes if groups == 1 else planes * base_width // base_channels * groups
        return [(width, 1, first, 1, 1), (width, 3, second, dilation, groups), (4 * planes, 1, 1, 1, 1)]
