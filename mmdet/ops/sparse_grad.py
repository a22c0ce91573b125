"""A convolution whose loss looks at few places."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

#: the largest part of places with a gradient for which these are gone through one by one
MAX_PART = 0.25


class SparseGradConv2d(nn.Conv2d):
    """Is ``torch.nn.Conv2d``, with a backward pass on the CPU that leaves out places without a gradient.

    A region proposal network learns from some hundred sampled anchors of ten thousands of places, so that nearly all of
    its convolution's backward pass multiplies with 0. Where at most :data:`MAX_PART` of the places have a gradient the
    result is that of the dense pass up to rounding; else, and on other devices, it is the dense pass. Arguments are
    those of ``torch.nn.Conv2d``.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # The padding mode, stride, dilation and groups that the gathering below is written for.
        simple = self.padding_mode == 'zeros' and {*self.stride, *self.dilation, self.groups} == {1}
        simple = simple and input.dim() == 4 and not isinstance(self.padding, str)
        plain = torch.jit.is_tracing() or torch.compiler.is_compiling() or input.device.type != 'cpu'
        if not simple or plain or not torch.is_grad_enabled():
            return super()._conv_forward(input, weight, bias)
        return _SparseGradConv.apply(input, weight, bias, self.padding)


class _SparseGradConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        places = grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1])
        at = (places != 0).any(1).nonzero().flatten()
        if len(at) <= MAX_PART * len(places):
            return *_backward_at(at, places, grad.shape, x, weight, ctx), None
        own, padding = (x.to(grad.dtype), weight.to(grad.dtype)), ctx.padding
        wanted = ctx.needs_input_grad[:3]
        parts = torch.ops.aten.convolution_backward(
            grad, *own, weight.shape[:1], (1, 1), padding, (1, 1), False, (0, 0), 1, wanted
        )
        kinds = (x.dtype, weight.dtype, weight.dtype)
        return *(part if part is None else part.to(kind) for part, kind in zip(parts, kinds)), None


def _backward_at(at: Tensor, places: Tensor, shape: torch.Size, x: Tensor, weight: Tensor, ctx) -> tuple:
    """The gradients of input, weight and bias, in float32 at least.

    Args:
        at: the places with a gradient, (S,).
        places: gradients of all places (N H' W', C').
        shape: (N, C', H', W').
    """
    out_channels, channels, *kernel = weight.shape
    grad = places[at].to(weight.dtype)
    need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
    rows, columns = ctx.padding
    wide = F.pad(x.permute(0, 2, 3, 1), (0, 0, columns, columns, rows, rows))
    # the cells of the padded input under the kernel at each place, (S, kernel cells)
    image, row, column = at // (shape[2] * shape[3]), at // shape[3] % shape[2], at % shape[3]
    under_rows = (image * wide.shape[1] + row)[:, None] + torch.arange(kernel[0])
    under_columns = column[:, None] + torch.arange(kernel[1])
    cells = (under_rows[:, :, None] * wide.shape[2] + under_columns[:, None]).flatten(1)
    of_x = of_weight = None
    if need_weight:
        patches = wide.reshape(-1, channels)[cells.flatten()].to(weight.dtype).view(len(at), cells.shape[1] * channels)
        of_weight = (grad.t() @ patches).view(out_channels, *kernel, channels).permute(0, 3, 1, 2)
    if need_x:
        parts = (grad @ weight.permute(0, 2, 3, 1).reshape(out_channels, -1)).view(-1, channels)
        sums = parts.new_zeros(wide.shape[:3].numel(), channels).index_add_(0, cells.flatten(), parts).view(wide.shape)
        height, width = x.shape[2:]
        of_x = sums[:, rows : rows + height, columns : columns + width].permute(0, 3, 1, 2).to(x.dtype)
    return of_x, of_weight, grad.sum(0) if need_bias else None
