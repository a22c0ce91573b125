"""Convolutions whose weight gets its gradient from maps in the order in which the processor is fast."""

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .paths import plain_conv, unobserved

#: Without AVX-512, oneDNN has no kernel of its own for the gradient of a weight from channels-last maps.
REORDERS = torch.backends.cpu.get_cpu_capability() == 'AVX2'
#: numbers of a map that are reordered at a time
PIECE = 1 << 21


def conv2d(conv: nn.Module, x: Tensor) -> Tensor:
    """Compute ``conv(x)``, with :func:`conv_backward` where that is of use; with gradients of any order."""
    if (
        not torch.is_grad_enabled()
        or not plain_conv(conv)
        or not conv.weight.requires_grad
        or not _reorders(x, conv.weight)
        or torch.is_autocast_enabled('cpu')
        or not unobserved(x, conv)
    ):
        return conv(x)
    return _Conv2d.apply(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: tuple[bool, bool, bool],
) -> tuple[Any, ...]:
    """``torch.ops.aten.convolution_backward``, where it is faster with the weight's gradient from reordered maps.

    Args:
        grad: of the output.
        x: the input.
        weight: of the convolution.
        bias_sizes: shape of the bias, or None.
        stride, padding, dilation, transposed, output_padding, groups: of the convolution.
        wanted: of input, weight and bias, which gradients.

    Returns:
        The gradients of input, weight and bias, None for those that are not wanted.
    """

    def gradients(grad: Tensor, x: Tensor, padding: Sequence[int], wanted: tuple[bool, ...]) -> tuple:
        geometry = stride, padding, dilation, transposed, output_padding, groups
        return torch.ops.aten.convolution_backward(grad, x, weight, bias_sizes, *geometry, wanted)

    if transposed or not any(wanted[1:]) or not _reorders(x, weight):
        return gradients(grad, x, padding, wanted)
    of_x = gradients(grad, x, padding, (True, False, False))[0] if wanted[0] else None
    weight = weight.contiguous()
    parts = [
        gradients(own_grad, own_x, (0, padding[1]), (False, *wanted[1:]))[1:]  # the bias's comes with the weight's
        for own_grad, own_x in _pieces(grad, x, weight.shape[2], stride[0], padding[0], dilation[0])
    ]
    return of_x, *(reduce(torch.add, each) if need else None for need, each in zip(wanted[1:], zip(*parts)))


def _pieces(
    grad: Tensor, x: Tensor, kernel: int, stride: int, padding: int, dilation: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images, or rows of one, of an output, and the rows of the input that they are made of; both contiguous."""
    part = PIECE / x[0].numel()
    images, rows = max(1, int(part)), min(grad.shape[2], max(1, int(part * grad.shape[2])))
    for own_x, own_grad in zip(x.split(images), grad.split(images)):
        for start in range(0, grad.shape[2], rows):
            piece = own_grad[:, :, start : start + rows].contiguous()
            first = start * stride - padding
            last = first + (piece.shape[2] - 1) * stride + dilation * (kernel - 1) + 1
            seen = own_x[:, :, max(0, first) : max(0, last)]
            padded = seen.new_zeros((*seen.shape[:2], last - first, seen.shape[3]))
            padded[:, :, max(0, -first) : max(0, -first) + seen.shape[2]] = seen
            yield piece, padded


def _reorders(x: Tensor, weight: Any) -> bool:
    if not REORDERS or x.device.type != 'cpu' or x.dim() != 4 or x.dtype.itemsize < 4:
        return False
    return weight.shape[2:].numel() > 1 and not x.is_contiguous()


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.bias_sizes = geometry, None if bias is None else bias.shape
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        wanted = ctx.needs_input_grad[:3]
        found = conv_backward(grad, x, weight, ctx.bias_sizes, stride, padding, dilation, False, (0, 0), groups, wanted)
        return *found, None, None, None, None
