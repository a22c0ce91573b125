"""Normalization with pooled statistics: over earlier batches (CBN) and over processes (SyncBN, SyncCBN)."""

from typing import NamedTuple, TypeAlias, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from .algebra import Share, weighted_pool
from .kernels import backward_input, backward_sums, normalize, without_autocast
from .window import History, Window

Group: TypeAlias = 'dist.ProcessGroup | None'  # in quotes: a torch without distributed has no such class


class Pool(NamedTuple):
    """What a batch is normalized with."""

    mean: Tensor  # (C,)
    var: Tensor  # (C,)
    per_position: Share  # of one position of the current batch, over all processes; a number or (C,)
    batch: tuple[Tensor, Tensor, float | Tensor]  # mean, variance, positions of the current one, over all
    weight: Share = 1.0  # this process's part of it
    entry_share: Share = 0.0  # of each earlier entry; a number or (n, C)


def syncs(group: Group = None) -> bool:
    """Whether there is another process to pool with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def pool_batch(mean: Tensor, var: Tensor, count: int, window: Window, history: History | None) -> Pool:
    """Pool a batch with the earlier ones of a window. ``mean, var``: (C,); ``count``: its positions."""
    if history is None:
        return Pool(mean, var, 1 / count, (mean, var, count))
    share = history.share
    return Pool(
        *window.pool(mean, var, history),
        share / count,
        (mean, var, count),
        entry_share=(1 - share) / len(history.entries),
    )


def pool_processes(mean: Tensor, var: Tensor, count: int, history: History | None = None, group: Group = None) -> Pool:
    """Pool a batch with the same iteration's batches of other processes and with everybody's earlier ones.

    Batches of one iteration are weighted by their positions; without any, mean and variance are 0. The processes
    exchange one message of 5C + 1 numbers each.
    """
    weights = torch.zeros_like(mean)
    early, own = [weights, weights, weights], 1.0
    if history is not None:
        own, carried = history.share, history.carried
        # In one process the earlier batches have 1 - own together: so much for each of theirs in all processes.
        each = torch.stack([mean.new_zeros(()) + entry.weight for entry in history.entries])
        weights = each.unsqueeze(1) * ~carried.unknown * ((1 - own) / len(history.entries))
        early = [weights.sum(0), *weighted_pool(weights, mean - carried.gaps, carried.vars)]
    # new_full: unlike new_tensor it does not wait for a GPU
    message = torch.cat([mean.new_full((1,), count), mean, var, *early])
    messages = [torch.empty_like(message) for _ in range(dist.get_world_size(group))]
    dist.all_gather(messages, message, group=group)
    received = torch.stack(messages)
    counts, numbers = received[:, :1], received[:, 1:].unflatten(1, (5, -1)).transpose(0, 1)
    means, variances, early_weights, early_means, early_vars = numbers
    all_count = counts.sum()
    some = all_count.clamp(min=1)
    all_weights = torch.cat([(own / some * counts).expand_as(means), early_weights])
    pooled = weighted_pool(all_weights, torch.cat([means, early_means]), torch.cat([variances, early_vars]))
    total = all_weights.sum(0).clamp(min=torch.finfo(mean.dtype).tiny)
    batch = (*weighted_pool(counts, means, variances), all_count)
    return Pool(*pooled, own / (total * some), batch, count / some, weights / total)


def update_running_stats(
    layer: _BatchNorm,
    mean: Tensor,
    var: Tensor,
    count: float | Tensor,
    finite: bool | Tensor = True,
    seen: bool | Tensor = True,
) -> None:
    """Move a batch norm's running statistics towards ``mean`` and the unbiased ``var``, taken over ``count`` values.

    A channel, or layer, where they are not ``finite``, and one that has ``seen`` no position, keeps what it has.
    """
    stats = layer.running_mean, layer.running_var, layer.num_batches_tracked
    running_mean, running_var, tracked = cast('tuple[Tensor, Tensor, Tensor]', stats)
    tracked.add_(1 if seen is True else seen)
    rate = layer.momentum if layer.momentum is not None else 1 / float(tracked)
    if finite is False:
        return
    var = var * (count / ((count - 1).clamp(min=1) if isinstance(count, Tensor) else max(count - 1, 1)))
    masks = [mask for mask in (finite, seen) if isinstance(mask, Tensor)]
    for running, new in ((running_mean, mean), (running_var, var)):
        for mask in masks:
            new = torch.where(mask, new, running)
        running.lerp_(new.to(running.dtype), rate)


class Step:
    """One training iteration of a layer, for :class:`PooledNorm`. ``sync, group``: whether to sum over processes."""

    def __init__(self, pool: Pool, eps: float, sync: bool = False, group: Group = None) -> None:
        self.pool, self.eps, self.sync, self.group = pool, eps, sync, group

    def gradient(self, total: Tensor, projected: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the convolution's weight and bias through the earlier batches, from those of the pooled mean,
        and twice that of the pooled variance, times a position's share of the pool."""
        return None, None

    def finish(self, y: Tensor, x: Tensor | None, matrix: Tensor | None) -> None:
        """Called in the backward: activation checkpointing runs the forward twice, evaluation and ``no_grad`` run it
        without a backward; the backward of a training step runs once."""


class PooledNorm(torch.autograd.Function):
    """``gamma * (y - mean) / sqrt(var + eps) + beta`` with pooled mean and variance; its backward is BN's with the
    share that a position of this batch has in the pool instead of one over their number.

    Inputs: y (N, C, *), gamma, beta (C,) or None, the step; of the convolution its input x, detached, its weights
    as a matrix, (C, D), and its bias, which get the gradient that flows through the earlier batches.
    """

    @staticmethod
    def forward(ctx, y, gamma, beta, step: Step, x=None, matrix=None, bias=None):
        invstd = torch.rsqrt(step.pool.var + step.eps)
        ctx.step = step
        ctx.save_for_backward(y, gamma, x, matrix, invstd)
        with without_autocast(y.device):
            return normalize(y, step.pool.mean, step.pool.var, gamma, beta, step.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        with without_autocast(grad.device):
            return PooledNorm._backward(ctx, grad)

    @staticmethod
    def _backward(ctx, grad):
        y, gamma, x, matrix, invstd = ctx.saved_tensors
        step, pool, needs = ctx.step, ctx.step.pool, (*ctx.needs_input_grad, False, False, False)
        grad = grad.contiguous(memory_format=torch.channels_last) if _channels_last(y) else grad.contiguous()
        grad_beta, grad_gamma = total, projected = backward_sums(grad, y, pool.mean, invstd)
        if step.sync:
            both = torch.stack([total, projected])
            dist.all_reduce(both, group=step.group)
            total, projected = both
        scale = invstd if gamma is None else invstd * gamma
        pulled = scale * -pool.per_position
        total, projected = total * pulled, projected * pulled
        grad_y = backward_input(grad, y, pool.mean, pool.var, step.eps, scale, total, projected) if needs[0] else None
        grad_matrix = grad_bias = None
        if needs[5] or needs[6]:
            grad_matrix, grad_bias = step.gradient(total, projected * invstd)
        step.finish(y, x, matrix)
        return (
            grad_y,
            grad_gamma if needs[1] else None,
            grad_beta if needs[2] else None,
            None,
            None,
            grad_matrix if needs[5] else None,
            grad_bias if needs[6] else None,
        )


def _channels_last(y: Tensor) -> bool:
    return y.dim() == 4 and not y.is_contiguous() and y.is_contiguous(memory_format=torch.channels_last)
