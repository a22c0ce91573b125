"""Normalization with pooled statistics: over earlier batches (CBN) and over processes (SyncBN, SyncCBN)."""
from typing import Callable, NamedTuple, Optional, Sequence, Union

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .kernels import backward_input, backward_sums, normalize, positions, without_autocast
from .window import Carried, Entry, pool

Group = Optional[object]


class Pool(NamedTuple):
    """What a batch is normalized with, and who contributed how much of it."""
    mean: Tensor  # (C,)
    var: Tensor  # (C,)
    weight: Tensor  # (): this process's batch in the pool, before normalization to 1; what its entry will weigh
    per_position: Tensor  # (): share of one position of the current batch in the pool, over all processes
    batch_mean: Tensor  # (C,): of the current batch, over all processes
    batch_var: Tensor  # (C,)
    count: Union[int, Tensor]  # its positions, over all processes
    entries: Sequence[Entry] = ()
    carried: Optional[Carried] = None
    shares: Optional[Tensor] = None  # (n,): of the entries
    means: Optional[Tensor] = None  # (n, C): of the entries, with the convolution's bias


def syncs(group: Group = None) -> bool:
    """Whether there is another process to pool with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def pool_batch(y: Tensor, mean: Tensor, var: Tensor, group: Group = None, sync: bool = False,
               entries: Sequence[Entry] = (), carried: Optional[Carried] = None, bias: Optional[Tensor] = None,
               own: float = 1., old: float = 1.) -> Pool:
    """Pool the batch ``y`` with the same iteration's batches of other processes and with earlier entries.

    Batches of one iteration are weighted by their positions and weigh ``own`` together. The processes exchange one
    message of 4C + 2 numbers each.

    Args:
        mean, var: of ``y``, (C,); 0 where it has no position.
        group, sync: processes to pool with, and whether to.
        entries, carried: earlier batches of this process; their means get ``bias`` added.
        own, old: weight of the current iteration, and factor of the entries' weights.
    """
    count = positions(y)
    if carried is not None:
        means = carried.means if bias is None else carried.means + bias
        early = carried.weights if old == 1 else old * carried.weights
    if not sync:
        weight = mean.new_ones(())
        if carried is None:
            return Pool(mean, var, weight, weight / count, mean, var, count)
        pooled_mean, pooled_var, shares = pool(
            torch.cat([mean.new_full((1, ), own), early]), torch.cat([mean.unsqueeze(0), means]),
            torch.cat([var.unsqueeze(0), carried.vars]))
        return Pool(pooled_mean, pooled_var, weight, shares[0] / count, mean, var, count, entries, carried, shares[1:],
                    means)
    if carried is None:
        summary = [mean.new_zeros(1), torch.zeros_like(mean), torch.zeros_like(mean)]
    else:
        summary = [early.sum().view(1), *pool(early, means, carried.vars)[:2]]
    counts, early_weights, all_means, all_vars = _exchange(count, mean, var, *summary, group)
    all_count = counts.sum()
    some = all_count.clamp(min=1)
    batch_mean, batch_var, _ = pool(counts, all_means[:len(counts)], all_vars[:len(counts)])
    weights = torch.cat([own / some * counts, early_weights])
    pooled_mean, pooled_var, _ = pool(weights, all_means, all_vars)
    total = weights.sum().clamp(min=torch.finfo(mean.dtype).tiny)
    pooled = Pool(pooled_mean, pooled_var, count / some, own / (total * some), batch_mean, batch_var, all_count)
    return pooled if carried is None else pooled._replace(
        entries=entries, carried=carried, shares=early / total, means=means)


def _exchange(count, mean, var, early_weight, early_mean, early_var, group):
    """Positions of the P processes' batches, weights of their pooled entries; means and variances of both, (2P, C)."""
    message = torch.cat([mean.new_tensor([count]), early_weight, mean, var, early_mean, early_var])
    received = [torch.empty_like(message) for _ in range(dist.get_world_size(group))]
    dist.all_gather(received, message, group=group)
    counts, weights, numbers = torch.stack(received).split([1, 1, 4 * len(mean)], 1)
    numbers = numbers.unflatten(1, (2, 2, -1)).transpose(0, 1).flatten(0, 1)  # ([batch, entries] P, [mean, var], C)
    return counts.flatten(), weights.flatten(), numbers[:, 0], numbers[:, 1]


def update_running_stats(layer: nn.Module, mean: Tensor, var: Tensor, count: Union[int, Tensor],
                         seen: Union[int, Tensor]) -> None:
    """Move a batch norm's running statistics towards ``mean`` and the unbiased ``var``.

    A channel that is not finite keeps what it has.

    Args:
        count: values that mean and variance were taken over.
        seen: positions of this iteration; without any nothing changes.
    """
    layer.num_batches_tracked.add_(1 if isinstance(seen, int) else (seen > 0).long())
    rate = layer.momentum if layer.momentum is not None else 1 / float(layer.num_batches_tracked)
    var = var * (count / (max(count - 1, 1) if isinstance(count, int) else (count - 1).clamp(min=1)))
    for running, new in ((layer.running_mean, mean), (layer.running_var, var)):
        step = (new.to(running.dtype) - running).nan_to_num_(0, 0, 0)
        running.add_(step if isinstance(seen, int) else step * (seen > 0), alpha=rate)


class PooledNorm(torch.autograd.Function):
    """``gamma * (y - mean) / sqrt(var + eps) + beta`` with pooled mean and variance; its backward is BN's with the
    share that a position of this batch has in the pool instead of one over their number.

    Inputs: y (N, C, *), gamma, beta (C,) or None; the convolution's weight and bias if the gradient reaches the
    earlier batches (else None); the convolution's input x and its weight, detached, for ``after``; the pool, eps, and
    processes to sum over (``sync``, ``group``).

    Args:
        window_grad: ``(grad_means, grad_vars) -> gradient of the weight``, for gradients (n, C) of the entries'
            carried means and variances.
        after: ``(y, x, weight)``, called once, in the first backward: activation checkpointing runs the forward
            twice, evaluation and ``no_grad`` run it without a backward; the backward of a training step runs once.
    """

    @staticmethod
    def forward(ctx, y, gamma, beta, weight, bias, x, fixed, pooled: Pool, eps: float, sync: bool, group: Group,
                window_grad: Optional[Callable], after: Optional[Callable]):
        ctx.pooled, ctx.eps, ctx.sync, ctx.group = pooled, eps, sync, group
        ctx.window_grad, ctx.after = window_grad, after
        invstd = torch.rsqrt(pooled.var + eps)
        ctx.save_for_backward(y, gamma, x, fixed, invstd)
        with without_autocast(y.device):
            return normalize(y, pooled.mean, pooled.var, gamma, beta, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        with without_autocast(grad.device):
            return PooledNorm._backward(ctx, grad)

    @staticmethod
    def _backward(ctx, grad):
        y, gamma, x, fixed, invstd = ctx.saved_tensors
        pooled, needs = ctx.pooled, ctx.needs_input_grad
        grad = grad.contiguous(memory_format=torch.channels_last) if _channels_last(y) else grad.contiguous()
        wide = None if gamma is None else gamma.to(invstd.dtype)
        grad_beta, grad_gamma = total, projected = backward_sums(grad, y, pooled.mean, invstd)
        if ctx.sync:
            both = torch.stack([total, projected])
            dist.all_reduce(both, group=ctx.group)
            total, projected = both
        grad_y = grad_weight = grad_bias = None
        if needs[0]:
            grad_y = backward_input(grad, y, pooled.mean, pooled.var, invstd, wide, ctx.eps,
                                    total * pooled.per_position, projected * pooled.per_position)
        if ctx.window_grad is not None and pooled.carried is not None and (needs[3] or needs[4]):
            scale = invstd if wide is None else invstd * wide
            grad_mean, grad_var = -scale * total, -0.5 * scale * invstd * projected
            share = pooled.shares.unsqueeze(1)
            grad_means = share * (grad_mean + 2 * grad_var * (pooled.means - pooled.mean))
            if needs[3]:
                grad_weight = ctx.window_grad(grad_means, share * grad_var)
            if needs[4]:
                grad_bias = grad_means.sum(0)
        if ctx.after is not None:
            ctx.after, after = None, ctx.after
            after(y, x, fixed)
        return (grad_y, grad_gamma if gamma is not None and needs[1] else None, grad_beta if needs[2] else None,
                grad_weight, grad_bias, *[None] * 8)


def _channels_last(y: Tensor) -> bool:
    return y.dim() == 4 and not y.is_contiguous() and y.is_contiguous(memory_format=torch.channels_last)
