"""How a convolution's output statistics depend on its weights.

Write ``x_p`` for the input patch under output position ``p``: D numbers for each of G groups, M positions in all.
Output channel c is ``y_cp = <w_c, x_p>`` (+ bias), so its mean is ``<w_c, m>`` with ``m = E_p[x_p]`` and half the
gradient of its variance is ``g_c = E_p[(y_cp - mu_c) x_p]``: a weight gradient. Works for every convolution of torch
(1d to 3d, strided, dilated, grouped, transposed) and for linear layers; weights are handled as a (C_out, D) matrix.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..conv import conv_backward
from .algebra import Share, nonzero, row_dot
from .kernels import all_but_channels, per_channel, positions, stats_dtype

Conv = _ConvNd | nn.Linear

#: fewest maps (RoIs, say) left in a sample for whole maps to be sampled instead of positions
MIN_SAMPLED_MAPS = 16
#: fewest positions that a sample is left with: of fewer the estimate is noise, and all of them cost little
MIN_SAMPLED_POSITIONS = 256
#: convolutions of mmcv and timm that standardize their weights before they use them
STANDARDIZING = ('ConvWS2d', 'ConvAWS2d', 'StdConv2d', 'StdConv2dSame', 'ScaledStdConv2d', 'ScaledStdConv2dSame')

#: convolutions of timm and mmcv that pad as TensorFlow does, so that the output has ceil(size / stride) positions
SAME_PADDING = ('Conv2dSame', 'Conv2dAdaptivePadding')


def pads_same(conv: nn.Module) -> bool:
    """Whether the convolution does what its torch base does after TensorFlow's padding."""
    return type(conv).__name__ in SAME_PADDING


def check_conv(conv: nn.Module) -> None:
    """Raise TypeError unless ``conv`` is a convolution or a linear layer of torch, linear in its ``weight``."""
    if not isinstance(conv, (_ConvNd, nn.Linear)):
        raise TypeError(
            f'CBN follows a torch convolution or nn.Linear, whose weights it needs; got '
            f'{type(conv).__name__}. Use BN, SyncBN or GN after this layer.'
        )
    if any(kind.__name__ in STANDARDIZING for kind in type(conv).__mro__):
        raise TypeError(
            f'CBN follows the weights of the convolution before it, and {type(conv).__name__} standardizes '
            "its weights first. Use BN, SyncBN or GN after it, or leave out conv_cfg=dict(type='ConvWS')."
        )


def weight_matrix(conv: Conv, weight: Tensor) -> Tensor:
    """The weight tensor as (C_out, D), one row for each output channel."""
    if not isinstance(conv, _ConvTransposeNd):
        return weight.flatten(1)
    groups = conv.groups
    weight = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return weight.transpose(1, 2).reshape(groups * weight.shape[2], -1)


def _padded(conv: _ConvNd, x: Tensor) -> tuple[Tensor, list[int]]:
    """The input and the zero padding that is left to do."""
    if pads_same(conv) and not isinstance(conv.padding, str):
        pads = []
        for size, kernel, stride, dilation in zip(
            x.shape[:1:-1], *(each[::-1] for each in (conv.kernel_size, conv.stride, conv.dilation))
        ):
            missing = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            pads += [missing // 2, missing - missing // 2]
        return F.pad(x, pads), list(conv.padding)
    if isinstance(conv.padding, str) or conv.padding_mode != 'zeros':
        mode = 'constant' if conv.padding_mode == 'zeros' else conv.padding_mode
        return F.pad(x, conv._reversed_padding_repeated_twice, mode=mode), [0] * len(conv.stride)
    return x, list(conv.padding)


def weight_grad(conv: Conv, x: Tensor, grad_output: Tensor, step: int = 1, dtype: torch.dtype | None = None) -> Tensor:
    """Gradient of ``sum(grad_output * conv(x))`` with respect to the weights, as (C_out, D).

    ``grad_output`` has the shape of the output, or of every ``step``-th position of it along each axis (not for
    transposed convolutions); ``dtype`` is that of the products and the result, by default the input's.
    """
    dtype = dtype or x.dtype
    if isinstance(conv, nn.Linear):
        return grad_output.to(dtype).t() @ x.to(dtype)
    if _pointwise(conv) and conv.groups == 1 and not isinstance(conv, _ConvTransposeNd) and not x.is_cuda:
        # One product of matrices: on a CPU cheaper than the convolution's own, which reorders its arguments.
        return _channel_rows(grad_output, dtype) @ _channel_rows(x, dtype).t()
    x, padding = _padded(conv, x)
    transposed = isinstance(conv, _ConvTransposeNd)
    stride = [s * step for s in conv.stride]
    # Only the shape of the weight is read: an expanded scalar costs nothing.
    weight = x.new_empty((), dtype=dtype).expand(conv.weight.shape)
    grad = conv_backward(
        grad_output.to(dtype),
        x.to(dtype),
        weight,
        None,
        stride,
        padding,
        conv.dilation,
        transposed,
        conv.output_padding,
        conv.groups,
        (False, True, False),
    )[1]
    return weight_matrix(conv, grad)


def _channel_rows(t: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, C, *) as (C, N * positions), converted in the same pass."""
    rows = torch.empty((t.shape[1], len(t), *t.shape[2:]), dtype=dtype, device=t.device)
    return rows.copy_(t.transpose(0, 1)).flatten(1)


@lru_cache(maxsize=256)
def _taps(
    size: int,
    out: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    transposed: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """(kernel, size): what part of the output positions has an input position under a tap, along one axis."""
    # Along an axis each pair of tap and input position meets in at most one output position.
    tap = torch.arange(kernel, device=device).unsqueeze(1) * dilation
    place = torch.arange(size, device=device)
    if transposed:
        target = place * stride + tap - padding
        met = (target >= 0) & (target < out)
    else:
        target = place + padding - tap
        met = (target % stride == 0) & (target >= 0) & (target < out * stride)
    return met.to(dtype) / out


def mean_patch(conv: Conv, x: Tensor, output_shape: torch.Size) -> Tensor:
    """Mean input patch ``m = E_p[x_p]``, (G, D), in float32 or wider.

    ``x``, (N, C_in, *spatial), or (N, C_in), has an output of ``output_shape``. The mean is taken over the batch first
    and then, axis by axis, over the positions that each tap of the kernel sees: no convolution.
    """
    dtype = stats_dtype(x.dtype)
    if isinstance(conv, nn.Linear):
        return x.mean(0, keepdim=True, dtype=dtype)
    if _pointwise(conv):
        return x.mean(all_but_channels(x), dtype=dtype).view(conv.groups, -1)
    x, padding = _padded(conv, x)
    transposed = isinstance(conv, _ConvTransposeNd)
    # (C_in, *spatial), then an axis after the other, from the last: (C_in, ..., taps)
    mean = x[0].to(dtype) if len(x) == 1 else x.mean(0, dtype=dtype)
    if max(conv.stride) > 1:  # what no patch holds must not count, 0 times infinity either; what one holds shows in y
        mean = mean.nan_to_num(0, 0, 0)
    last = len(conv.kernel_size) - 1
    for axis in range(last, -1, -1):
        taps = _taps(
            x.shape[axis + 2],
            output_shape[axis + 2],
            conv.kernel_size[axis],
            conv.stride[axis],
            padding[axis],
            conv.dilation[axis],
            transposed,
            dtype,
            x.device,
        )
        mean = mean @ taps.t() if axis == last else (taps @ mean).flatten(-2)
    return mean.reshape(conv.groups, -1)


def _pointwise(conv: _ConvNd) -> bool:
    """Whether every input position is an output position: 1x1, no stride, no padding."""
    ones = set(conv.kernel_size) | set(conv.stride)
    return ones == {1} and not isinstance(conv.padding, str) and not any(conv.padding) and not any(conv.output_padding)


def sample(conv: Conv, x: Tensor, y: Tensor, stride: int) -> tuple[Tensor, Tensor, int]:
    """About one position in ``stride**2``, of a smaller stride where that would leave few: input, output, and the step
    between the output's positions along each axis.

    Of many small maps whole maps are taken (cheaper than a strided weight gradient), of few large ones every
    ``stride``-th row and column.
    """
    while stride > 1 and positions(y) < MIN_SAMPLED_POSITIONS * stride**2:
        stride -= 1
    maps = stride**2
    if stride == 1:
        return x, y, 1
    if isinstance(conv, nn.Linear) or len(y) >= MIN_SAMPLED_MAPS * maps:
        return x[::maps], y[::maps], 1
    if isinstance(conv, _ConvTransposeNd):
        return x, y, 1  # strided positions would meet some of the taps only
    strided = (slice(None), slice(None), *(slice(None, None, stride),) * (y.dim() - 2))
    if _pointwise(conv):
        return x[strided], y[strided], 1
    return x, y[strided], stride


def product_dtype(conv: Conv, x: Tensor) -> torch.dtype:
    """The fastest dtype of a slope's products that does not show.

    A slope is a ratio, used for the small step that the weights took, so the rounding of bfloat16 factors does not show
    in the carried statistics (docs/cbn.md). Half precision activations keep their own dtype.
    """
    native = getattr(torch.cpu, '_is_avx512_bf16_supported', lambda: False)
    dense = getattr(conv, 'groups', 1) == 1
    return torch.bfloat16 if x.dtype == torch.float32 and x.device.type == 'cpu' and dense and native() else x.dtype


def variance_gradient(
    conv: Conv,
    x: Tensor,
    y: Tensor,
    matrix: Tensor,
    mean: Tensor,
    var: Tensor,
    stride: int = 1,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Share]:
    """Half the gradient of the output's variance by the weights, ``g_c = E_p[(y_cp - mu_c) x_p]``, up to a factor.

    Args:
        x, y: input and output of ``conv``.
        matrix: (C_out, D), the weights that made ``y``, in the statistics' dtype.
        mean, var: of ``y``.
        stride: take one position in ``stride**2``, see :func:`sample`.
        dtype: of the products; by default :func:`product_dtype`.

    Returns:
        (C_out, D) in the statistics' dtype, and the factor, a number or (C_out,), with which ``<g_c, w_c>`` is the
        variance; of a sample 0 for a channel without variance in it.
    """
    x_part, y_part, step = sample(conv, x, y, stride)
    dtype, count = dtype or product_dtype(conv, x), positions(y_part)
    sampled = y_part is not y
    if sampled:
        # Centred on its own mean, so that <g_c, w_c> is its variance, never negative.
        mean = y_part.mean(all_but_channels(y), dtype=mean.dtype)
    if y.dtype == torch.float16:  # keeps the parts of the products from overflow and underflow
        centred = y_part - per_channel(mean, y).half()
        centred *= per_channel((var.clamp(min=1e-12) * count).rsqrt(), y).half()
        sampled = True
    else:
        centred = y_part.new_empty(y_part.shape, dtype=dtype)
        torch.sub(y_part, per_channel(mean, y), out=centred)
    grad = weight_grad(conv, x_part, centred, step, dtype).to(matrix.dtype)
    return grad, var / nonzero(row_dot(grad, matrix)) if sampled else 1 / count
