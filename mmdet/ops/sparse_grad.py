"""A head whose loss looks at few places."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .paths import plain_conv, unobserved

#: the largest part of places with a gradient for which these are gone through one by one
MAX_PART = 0.25


def sparse_head(x: Tensor, conv: nn.Module, *heads: nn.Module) -> tuple[Tensor, ...] | None:
    """Compute ``head(relu(conv(x)))`` of several 1x1 convolutions, with a backward pass for losses of few places.

    A region proposal network learns from some hundred sampled anchors of ten thousands of places: nearly all of its
    backward pass multiplies with 0, and what it keeps for it is as large as the maps. Here only ``x`` is kept, and the
    backward pass computes the hidden features anew where there is a gradient. Where that is at more than
    :data:`MAX_PART` of the places it is the dense pass. The result is the modules' own up to rounding.

    Args:
        x: (N, C, H, W).
        conv: ``nn.Conv2d`` of stride 1.
        heads: ``nn.Conv2d`` of one cell.

    Returns:
        (N, C_i, H', W') of each head; None where this cannot be done: the modules are others, watched by hooks, traced
        or not on the CPU, or there is no gradient.
    """
    convs = (conv, *heads)
    if not torch.is_grad_enabled() or not all(map(plain_conv, convs)) or not unobserved(x, *convs):
        return None
    for i, one in enumerate(convs):
        assert isinstance(one, nn.Conv2d)
        if {*one.stride, *one.dilation, one.groups} != {1} or (i and (*one.kernel_size, *one.padding) != (1, 1, 0, 0)):
            return None
    if x.dim() != 4:
        return None
    parameters = [part for one in convs for part in (one.weight, one.bias)]
    return _SparseHead.apply(x, conv.padding, *parameters)


def _dense(padding: tuple, x: Any, weight: Any, bias: Any, *heads: Any) -> tuple:
    hidden = F.relu(F.conv2d(x, weight, bias, padding=padding), inplace=True)
    return tuple(F.conv2d(hidden, own, own_bias) for own, own_bias in zip(heads[::2], heads[1::2]))


class _SparseHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, padding: tuple[int, int], *parameters: Tensor | None) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *parameters)
        ctx.padding = padding
        return _dense(padding, x, *parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple:
        x, *parameters = ctx.saved_tensors
        places = torch.cat([grad.permute(0, 2, 3, 1) for grad in grads], 3)  # (N, H', W', sum of C_i)
        at = (places != 0).any(3).flatten().nonzero().flatten()
        if len(at) <= MAX_PART * places.shape[:3].numel():
            found = _at_places(at, places, x, ctx.padding, parameters, ctx.needs_input_grad[0])
        else:
            with torch.enable_grad():
                own = [one if one is None else one.detach().to(grads[0].dtype) for one in (x, *parameters)]
                leaves = [one.requires_grad_() for one in own if one is not None]
                there = iter(torch.autograd.grad(_dense(ctx.padding, *own), leaves, grads))
            found = [one if one is None else next(there) for one in own]
        found = [one if one is None else one.to(like.dtype) for one, like in zip(found, (x, *parameters))]
        return found[0], None, *found[1:]


def _at_places(
    at: Tensor, places: Tensor, x: Tensor, padding: tuple[int, int], parameters: list, need_x: bool
) -> list[Tensor | None]:
    """The gradients of the input and the parameters, from those at some places.

    Args:
        at: which of the places, (S,).
        places: gradients of all outputs at all places (N, H', W', sum of C_i).
    """
    weight, bias, *heads = parameters
    width, channels, *kernel = weight.shape
    # the cells of the input under the kernel at each place, (S, kernel cells), and which of them are beside it
    image, place = at // places.shape[1:3].numel(), at % places.shape[1:3].numel()
    row = (place // places.shape[2] - padding[0])[:, None, None] + torch.arange(kernel[0])[:, None]
    column = (place % places.shape[2] - padding[1])[:, None, None] + torch.arange(kernel[1])
    high, wide = x.shape[2:]
    outside = ((row < 0) | (row >= high) | (column < 0) | (column >= wide)).flatten()
    cells = (image[:, None, None] * high + row.clamp(0, high - 1)) * wide + column.clamp(0, wide - 1)
    cells = cells.flatten()
    patches = x.permute(0, 2, 3, 1).reshape(-1, channels)[cells].to(weight.dtype)
    patches = patches.masked_fill_(outside[:, None], 0).view(len(at), weight[0].numel())
    flat = weight.permute(0, 2, 3, 1).reshape(width, -1)
    hidden = patches @ flat.t() if bias is None else torch.addmm(bias, patches, flat.t())
    positive = hidden > 0
    hidden = hidden.relu_()
    grad = places.flatten(0, 2)[at].to(weight.dtype)
    of_hidden, of_heads = torch.zeros_like(hidden), []
    for own, own_bias, part in zip(heads[::2], heads[1::2], grad.split([len(one) for one in heads[::2]], 1)):
        of_hidden.addmm_(part, own.flatten(1))
        of_heads += [(part.t() @ hidden).view(own.shape), None if own_bias is None else part.sum(0)]
    of_hidden *= positive
    of_weight = (of_hidden.t() @ patches).view(width, *kernel, channels).permute(0, 3, 1, 2)
    of_x = None
    if need_x:
        parts = (of_hidden @ flat).view(-1, channels).masked_fill_(outside[:, None], 0)
        # the owner of its memory, so that autograd adds the map's next gradient in place
        of_x = torch.empty(x.shape, dtype=parts.dtype, memory_format=torch.channels_last).zero_()
        of_x.permute(0, 2, 3, 1).view(-1, channels).index_add_(0, cells, parts)
    return [of_x, of_weight, None if bias is None else of_hidden.sum(0), *of_heads]
