"""Batch norms as part of the convolutions before them, or as a factor and a term; paddings as constants."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmdet.ops.norm import BRN, CBN, CBNGN, SyncBN
from mmdet.ops.norm.pairing import find_pairs
from mmdet.ops.paths import plain_conv

#: what they do in evaluation mode is what a batch norm does
_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward, SyncBN.forward, CBN.forward, BRN.forward)


class ChannelAffine(nn.Module):
    """Multiplies each channel by a factor and adds a term: what a batch norm does with running statistics.

    Args:
        norm: with running statistics.
        weight, bias: (C,) of the norm, or None.
        rest: another norm, whose output is added.
    """

    factor: Tensor
    term: Tensor

    def __init__(self, norm: _BatchNorm, weight: Tensor | None, bias: Tensor | None, rest: Any = None) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        factor = (norm.running_var + norm.eps).rsqrt() * (1 if weight is None else weight.detach())
        self.register_buffer('factor', factor)
        self.register_buffer('term', (0 if bias is None else bias.detach()) - norm.running_mean * factor)
        self.rest: Any = rest

    def forward(self, y: Tensor) -> Tensor:
        """Compute (N, C, ...) from (N, C, ...)."""
        shape = (-1, *[1] * (y.dim() - 2))
        z = y * self.factor.view(shape) + self.term.view(shape)
        return z if self.rest is None else z + self.rest(y)


def fold_norms(model: nn.Module, inputs: Any) -> int:
    """Make each batch norm that a convolution feeds a part of the convolution, in place.

    BN, SyncBN, BRN and CBN of a model in evaluation mode are a factor and a term for each channel, which the
    convolution's weights and bias can have; the model computes the same up to rounding. Where there is no convolution
    for them they become a :class:`ChannelAffine`, as the CBN of a CBN+GN does. A norm with hooks, with a forward of its
    own or without running statistics stays.

    Args:
        model: in evaluation mode. Only norms take what their convolutions return.
        inputs: what it is run with once, to see which convolution feeds which norm.

    Returns:
        The number of norms that are part of a convolution.
    """
    names = {module: name for name, module in model.named_modules()}
    sums: list[Any] = [module for module in names if isinstance(module, CBNGN)]
    parts = {module.cbn for module in sums}
    norms = [
        module
        for module in names
        if isinstance(module, _BatchNorm)
        and type(module).forward in _FORWARDS
        and module.running_mean is not None
        and module not in parts
        and not (module._forward_hooks or module._forward_pre_hooks)
    ]
    pairs = find_pairs(model, names, norms, {}, inputs)
    fed = [pairs.get(norm) for norm in norms]
    layers: dict[nn.Module, nn.Module] = {}
    for norm, conv in zip(norms, fed):
        if isinstance(conv, nn.Module) and plain_conv(conv) and fed.count(conv) == 1:
            layers[conv] = fuse_conv_bn_eval(conv, norm)
            layers[norm] = nn.Identity()
        else:
            layers[norm] = ChannelAffine(norm, norm.weight, norm.bias)
    for norm in sums:
        rest = nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps).to(norm.cbn.running_mean)
        weight = torch.ones_like(rest.weight) if norm.weight is None else norm.weight.detach()
        with torch.no_grad():
            rest.weight.copy_(weight * (1 - norm.share))
        layers[norm] = ChannelAffine(norm.cbn, weight * norm.share, norm.bias, rest)
    _replace(model, layers)
    return sum(isinstance(layer, nn.Identity) for layer in layers.values())


def _replace(model: nn.Module, layers: dict[nn.Module, nn.Module]) -> None:
    """Put each layer of ``layers`` in the place of its key, wherever in the model that is."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child in layers:
                module._modules[name] = layers[child]


class PaddedConv(nn.Module):
    """Pads by constants what a convolution gets.

    Args:
        conv: of two dimensions, without a padding of its own but what its forward adds, which is left out.
        pad: left, right, above, below.
    """

    def __init__(self, conv: nn.Conv2d, pad: list[int]) -> None:
        super().__init__()
        self.conv, self.pad = conv, pad

    def forward(self, x: Tensor) -> Tensor:
        """Compute (N, C', H', W') from (N, C, H, W)."""
        return self.conv._conv_forward(F.pad(x, self.pad), self.conv.weight, self.conv.bias)


def fix_padding(backbone: nn.Module, divisor: int) -> list[str]:
    """Make TensorFlow's "SAME" padding, as timm's ports of its networks have it, constant, in place.

    Its width is computed from the input's side h, ``max((ceil(h / stride) - 1) * stride + reach - h, 0)`` with a reach
    of ``(kernel - 1) * dilation + 1``, which exporters carry through a network as one expression that grows with each
    layer, and do not come to an end. Where the stride divides h it is ``max(reach - stride, 0)``.

    Args:
        backbone: in evaluation mode, on its parameters' device.
        divisor: the sides of its inputs (N, 3, H, W) are multiples of this.

    Returns:
        The names of the convolutions whose padding does depend on the size of the input, with this divisor.
    """
    convs: Any = {module: name for name, module in backbone.named_modules() if type(module).__name__ == 'Conv2dSame'}
    if not convs:
        return []
    sides: dict[nn.Module, tuple[int, ...]] = {}
    hooks = [
        conv.register_forward_pre_hook(lambda conv, args: sides.update({conv: args[0].shape[2:]})) for conv in convs
    ]
    # an odd multiple: what divides a map's sides now divides them for all inputs
    side = divisor * (64 // divisor | 1)
    with torch.no_grad():
        backbone(next(backbone.parameters()).new_zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    fixed: dict[nn.Module, nn.Module] = {}
    for conv in convs:
        if conv in sides and not any(length % step for length, step in zip(sides[conv], conv.stride)):
            pad = []
            for size, step, dilation in list(zip(conv.kernel_size, conv.stride, conv.dilation))[::-1]:
                total = max((size - 1) * dilation + 1 - step, 0)
                pad += [total // 2, total - total // 2]
            fixed[conv] = PaddedConv(conv, pad)
    _replace(backbone, fixed)
    return [name for conv, name in convs.items() if conv not in fixed]
