"""The passes over the activations: statistics, normalization and its backward, by the framework's fused kernels.

Statistics are per channel, (C,), and float32 or wider whatever the activations are. ``y`` is (N, C, *).
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

_HALF = (torch.float16, torch.bfloat16)


#: torch.compiler.disable, but for a function that is called first: it imports the compiler, a second of every start
outside_graphs = getattr(torch, '_disable_dynamo', torch.compiler.disable)


def _fused(y: Tensor) -> bool:
    return y.is_cuda  # SyncBatchNorm's kernels, which take the sums apart from the elements, are there


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast, where it is on, would take small products, statistics among them, in half precision."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def stats_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the statistics of activations of ``dtype``."""
    return torch.float32 if dtype in _HALF else dtype


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """(C,) as a view that broadcasts over ``like`` (N, C, *)."""
    return values.view(-1, *(1,) * (like.dim() - 2))


def positions(y: Tensor) -> int:
    """Number of values of each channel."""
    return y.numel() // y.shape[1] if y.shape[1] else 0


def all_but_channels(y: Tensor) -> list[int]:
    """The dimensions that statistics are taken over."""
    return [0, *range(2, y.dim())]


def batch_stats(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel; zeros where there is no position."""
    dtype = stats_dtype(y.dtype)
    if y.numel() == 0:
        return y.new_zeros(y.shape[1], dtype=dtype), y.new_zeros(y.shape[1], dtype=dtype)
    if _fused(y):
        return torch.batch_norm_update_stats(y, None, None, 0.0)  # BN's own kernel, one pass
    # On a CPU BN's kernel, and torch.var, take several times as long as these passes.
    dims = all_but_channels(y)
    mean = y.mean(dims, dtype=dtype)
    centred = y - per_channel(mean, y)
    return mean, centred.mul_(centred).mean(dims)


def normalize(y: Tensor, mean: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float) -> Tensor:
    """``gamma * (y - mean) / sqrt(var + eps) + beta`` in ``y``'s dtype."""
    if y.numel() == 0:
        return y.clone()
    gamma, beta = (None if t is None else t.to(mean.dtype) for t in (gamma, beta))  # of a model in half precision
    return F.batch_norm(y, mean, var, gamma, beta, False, 0.0, eps)


def backward_sums(grad: Tensor, y: Tensor, mean: Tensor, invstd: Tensor) -> tuple[Tensor, Tensor]:
    """``sum(grad)`` and ``sum(grad * y_hat)`` of each channel, ``y_hat = (y - mean) * invstd``."""
    if y.numel() == 0:
        return torch.zeros_like(mean), torch.zeros_like(mean)
    if _fused(y):
        total, centred = torch.batch_norm_backward_reduce(grad, y, mean, invstd, None, True, False, False)[:2]
        return total, centred * invstd
    # The weight's value does not matter here, but without one the kernel leaves its gradient out.
    _, projected, total = torch.ops.aten.native_batch_norm_backward(
        grad, y, invstd, None, None, mean, invstd, True, 0.0, (False, True, True)
    )
    return total, projected


def backward_input(
    grad: Tensor, y: Tensor, mean: Tensor, var: Tensor, eps: float, scale: Tensor, total: Tensor, projected: Tensor
) -> Tensor:
    """``scale * grad + total + y_hat * projected``, the gradient of the layer's input, in ``y``'s dtype, with ``scale =
    gamma / sqrt(var + eps)`` and :func:`backward_sums` times ``-scale`` and a position's share of the pool."""
    if y.numel() == 0:
        return torch.zeros_like(y)
    pulled = F.batch_norm(y, mean, var, projected, total, False, 0.0, eps)
    return pulled.addcmul_(grad, per_channel(scale, y).to(y.dtype))
