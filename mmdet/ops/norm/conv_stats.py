"""How a convolution's output statistics depend on its weights.

Write ``x_p`` for the input patch under output position ``p``: D numbers for each of G groups, M positions in all.
Output channel c is ``y_cp = <w_c, x_p>`` (+ bias), so its mean is ``<w_c, m>`` with ``m = E_p[x_p]`` and half the
gradient of its variance is ``E_p[(y_cp - mu_c) x_p]``: a weight gradient. Works for every convolution of torch
(1d to 3d, strided, dilated, grouped, transposed) and for linear layers; weights are handled as a (C_out, D) matrix.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def check_conv(conv: nn.Module) -> None:
    """Raise TypeError unless ``conv`` is a convolution or a linear layer of torch."""
    if not isinstance(conv, (_ConvNd, nn.Linear)):
        raise TypeError(f'CBN follows a torch convolution or nn.Linear, whose weights it needs; got '
                        f'{type(conv).__name__}. Use BN, SyncBN or GN after this layer.')


def weight_matrix(conv: nn.Module, weight: Tensor) -> Tensor:
    """The weight tensor as (C_out, D), one row for each output channel."""
    if not isinstance(conv, _ConvTransposeNd):
        return weight.flatten(1)
    groups = conv.groups
    weight = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return weight.transpose(1, 2).reshape(groups * weight.shape[2], -1)


def weight_grad(conv: nn.Module, x: Tensor, grad_output: Tensor) -> Tensor:
    """Gradient of ``sum(grad_output * conv(x))`` with respect to the weights, as (C_out, D).

    Args:
        x: input of the layer.
        grad_output: same shape as its output; may hold one channel for each group instead of C_out (then the
            result has G rows).
    """
    if isinstance(conv, nn.Linear):
        return grad_output.flatten(0, -2).t() @ x.flatten(0, -2)
    groups, padding = conv.groups, conv.padding
    if isinstance(padding, str) or conv.padding_mode != 'zeros':
        mode = 'constant' if conv.padding_mode == 'zeros' else conv.padding_mode
        x = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
        padding = [0] * len(conv.stride)
    transposed = isinstance(conv, _ConvTransposeNd)
    channels = grad_output.shape[1]
    shape = (x.shape[1], channels // groups) if transposed else (channels, x.shape[1] // groups)
    # Only the shape of the weight is read: an expanded scalar costs nothing.
    weight = x.new_zeros(()).expand(*shape, *conv.kernel_size)
    grad = torch.ops.aten.convolution_backward(
        grad_output.contiguous(), x, weight, None, conv.stride, padding, conv.dilation, transposed,
        conv.output_padding, groups, (False, True, False))[1]
    return weight_matrix(conv, grad)


def mean_patch(conv: nn.Module, x: Tensor, output_shape: torch.Size) -> Tensor:
    """Mean input patch ``m = E_p[x_p]``, (G, D).

    Args:
        x: input of the layer, (N, C_in, *spatial), or (..., C_in) for a linear layer.
        output_shape: shape of the layer's output for ``x``, (N, C_out, *spatial).
    """
    if isinstance(conv, nn.Linear):
        return x.flatten(0, -2).mean(0, keepdim=True)
    # The sum over the batch first: the gradient that follows then runs over one image and one channel a group.
    spatial = output_shape[2:]
    positions = output_shape[0] * spatial.numel()
    ones = x.new_full((1, conv.groups, *spatial), 1 / positions)
    return weight_grad(conv, x.sum(0, keepdim=True), ones)


def row_dot(rows: Tensor, weight: Tensor) -> Tensor:
    """``<rows_c, w_c>`` for each output channel c, (C_out,).

    Args:
        rows: (C_out, D), or (G, D) for one row shared by the channels of a group.
        weight: (C_out, D).
    """
    if len(rows) == len(weight):
        return (rows * weight).sum(1)
    return (weight.unflatten(0, (len(rows), -1)) @ rows.unsqueeze(2)).flatten()
