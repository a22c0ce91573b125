"""Convolution, norm and activation as one block."""

from mmcv.cnn import build_activation_layer, build_conv_layer
from mmengine.model import constant_init, kaiming_init
from torch import Tensor, nn

from mmdet.ops.conv import conv2d
from mmdet.ops.norm import conv_norm
from mmdet.registry import build_norm_layer


class ConvModule(nn.Module):
    """Computes ``act(norm(conv(x)))``: a convolution, a norm and an activation as one block.

    Parameters are named ``conv.*`` and, after the norm, ``bn.*``, ``gn.*``, ...

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in ``torch.nn.Conv2d``.
        bias: 'auto': only where no norm follows.
        conv_cfg: kind of the convolution; None: ``Conv2d``.
        norm_cfg, act_cfg: None leaves the norm or the activation out.
        inplace: of the activation.

    Example:
        >>> import torch
        >>> block = ConvModule(3, 8, 3, padding=1, norm_cfg=dict(type='CBN'))
        >>> block(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 8, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple,
        stride: int | tuple = 1,
        padding: int | tuple = 0,
        dilation: int | tuple = 1,
        groups: int = 1,
        bias: bool | str = 'auto',
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = dict(type='ReLU'),
        inplace: bool = True,
    ) -> None:
        super().__init__()
        if bias == 'auto':
            bias = norm_cfg is None
        self.conv = build_conv_layer(
            conv_cfg,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.norm_name = None
        if norm_cfg is not None:
            self.norm_name, norm = build_norm_layer(norm_cfg, out_channels)
            self.add_module(self.norm_name, norm)
        self.activate = None
        if act_cfg is not None:
            act_cfg = dict(act_cfg)
            if act_cfg['type'] not in ('Tanh', 'Sigmoid', 'PReLU', 'GELU', 'HSigmoid'):
                act_cfg.setdefault('inplace', inplace)
            self.activate = build_activation_layer(act_cfg)
        self.reset_parameters()

    @property
    def norm(self) -> nn.Module | None:
        """Return the norm layer, or None without one."""
        return getattr(self, self.norm_name) if self.norm_name else None

    def reset_parameters(self) -> None:
        """Draw the convolution's weights (Kaiming normal); the norm gets weight 1 and bias 0."""
        kaiming_init(self.conv, nonlinearity='relu')
        if self.norm is not None:
            constant_init(self.norm, 1, bias=0)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (N, out_channels, H', W') from (N, in_channels, H, W)."""
        x = conv2d(self.conv, x) if self.norm is None else conv_norm(self.conv, self.norm, x)
        return x if self.activate is None else self.activate(x)
