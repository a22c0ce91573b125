"""The algebra of CBN's window, (C,) and (C, D): plain functions of tensors that compile without a graph break.

:func:`carry` and :func:`pool` are what the forward needs, :func:`weight_gradient` is what the backward gives,
:func:`blend` what enters an exponential window. C output channels, G groups, D numbers a filter, n earlier batches.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

COMPENSATIONS = ('taylor', 'secant', 'none')
#: a filter with ``|<a, w> - 1|`` above this has not taken a step but was initialized or loaded anew
TURNED = 0.5
#: below it a sum of squares is none
TINY = 1e-30

Share = float | Tensor


class Entry(NamedTuple):
    """An earlier batch: its statistics and what they need to follow the weights."""

    weight: Share  # in the pool; 1 but for processes that pool with others
    mean: Tensor  # (C,): without the convolution's bias
    var: Tensor  # (C,): biased variance; negative: the channel was not finite
    patch: Tensor | None = None  # (G, D): mean input patch m, so that the mean is <w_c, m>
    slope: Tensor | None = None  # (C, D): half the gradient of the variance, up to a factor; a_c = slope_c / own_c
    own: Tensor | None = None  # (C,): <slope_c, w0_c>; infinity where the slope is not known


class Followed(Entry):
    """One that can follow the weights: what every entry is unless the compensation is ``'none'``. For types alone."""

    patch: Tensor
    slope: Tensor
    own: Tensor


class Carried(NamedTuple):
    """n entries under today's weights, as seen from the current batch, which stands in where one says nothing."""

    gaps: Tensor  # (n, C): the current batch's mean minus theirs
    vars: Tensor  # (n, C)
    unknown: Tensor  # (n, C): where the entry says nothing of the channel
    leads: Tensor | None = None  # (n, C): times its slope half the variance's gradient by the weights
    shifts: Tensor | None = None  # (n, C): change of the mean, where the variance depends on it (Taylor)


class Moved(Carried):
    """Of entries that follow the weights. For types alone."""

    leads: Tensor


def _follow(entries: Sequence[Entry], compensation: str) -> TypeGuard[Sequence[Followed]]:
    return compensation != 'none'


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0].unsqueeze(0)


def by_group(values: Tensor, groups: int) -> Tensor:
    """(C, *) as (G, C / G, *)."""
    return values.unflatten(0, (groups, -1))


def row_dot(rows: Tensor, weight: Tensor) -> Tensor:
    """``<rows_c, w_c>`` of (C, D) and (C, D), (C,)."""
    return (rows * weight).sum(1)


def nonzero(squares: Tensor) -> Tensor:
    """What can be divided by: infinity for what is no more than rounding."""
    return torch.threshold(squares, TINY, torch.inf)


def carry(
    entries: Sequence[Entry], matrix: Tensor, mean: Tensor, var: Tensor, compensation: str, rho: float = 1.0
) -> Carried:
    """Mean and variance of earlier batches under today's weights, beside the current batch's.

    ``mu`` is linear and the variance quadratic in ``w``, so with Euler's identity the old weights cancel. With
    ``r = <a, w>``, 1 at the old weights:

    - ``'taylor'``, the paper's: ``nu = E[y^2]`` and ``mu`` expanded to first order and ``max(nu, mu^2)`` pooled:
      ``var0 (1 + 2 (r - 1)) - (mu(w) - mu0)^2``, at least 0.
    - ``'secant'``: ``var0 r^2``. By Cauchy-Schwarz on the patch covariance, never above the true variance, and never
      below Taylor's.
    - ``'none'``: as they were.

    ``matrix``: today's weights, (C, D); ``mean`` (without the convolution's bias), ``var``: of the current batch;
    ``rho``: how much of the way from the old weights to today's is accounted for, 0 to 1.
    """
    variances = _stack([entry.var for entry in entries])
    if compensation != 'secant' or rho != 1:
        old_means = _stack([entry.mean for entry in entries])
    if not _follow(entries, compensation):
        unknown, gaps = variances < 0, mean - old_means
        return Carried(gaps.masked_fill_(unknown, 0), torch.where(unknown, var, variances), unknown)
    own = _stack([entry.own for entry in entries])
    ratios = _stack([row_dot(entry.slope, matrix) for entry in entries]) / own
    near = ratios.clamp(1 - TURNED, 1 + TURNED)
    unknown = near != ratios
    gaps, shifts = _gaps(entries, matrix, mean), None
    if rho != 1:
        gaps = torch.lerp(mean - old_means, gaps, rho)
        near = torch.lerp(torch.ones_like(near), near, rho)
    half_slopes = variances
    if compensation == 'secant':
        half_slopes = variances * near
        carried = half_slopes * near
    else:
        shifts = (mean - gaps).sub_(old_means)
        carried = torch.addcmul(torch.lerp(-variances, variances, near), shifts, shifts, value=-1).clamp_(min=0)
    leads = (half_slopes / own).masked_fill_(unknown, 0)
    return Carried(gaps.masked_fill_(unknown, 0), torch.where(unknown, var, carried), unknown, leads, shifts)


def _gaps(entries: Sequence[Followed], matrix: Tensor, mean: Tensor) -> Tensor:
    """``mean - <m, w>`` of every entry, (n, C)."""
    patches = _stack([entry.patch for entry in entries])  # (n, G, D)
    if patches.shape[1] == 1:
        return torch.addmm(mean, patches.squeeze(1), matrix.t(), alpha=-1)
    return mean - (by_group(matrix, patches.shape[1]) @ patches.permute(1, 2, 0)).flatten(0, 1).t()


def _add_outer(to: Tensor, columns: Tensor, rows: Tensor, factor: Share) -> Tensor:
    """``to + factor * columns rows`` in place: (C, D), (C,), (G, D) or (C, D), and a number or (C,)."""
    if isinstance(factor, Tensor):
        columns, factor = columns * factor, 1.0
    groups = len(rows)
    by_group(to, groups).addcmul_(columns.view(groups, -1, 1), rows.unsqueeze(1), value=factor)
    return to


def pool(mean: Tensor, var: Tensor, carried: Carried, share: float) -> tuple[Tensor, Tensor]:
    """Total mean and variance, (C,), within plus between, so that nothing cancels in float32.

    ``mean, var, share``: of the current batch; the entries have the rest in equal parts.
    """
    rest = 1 - share
    if len(carried.gaps) == 1:
        gap, within, between = carried.gaps[0], carried.vars[0], share * rest
    else:
        gap, between = carried.gaps.mean(0), -(rest**2)
        within = torch.addcmul(carried.vars, carried.gaps, carried.gaps).mean(0)
    total = torch.addcmul(torch.lerp(var, within, rest), gap, gap, value=between)
    return torch.add(mean, gap, alpha=-rest), total


def weighted_pool(weights: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`pool` of n sources, (n, C), with weights, (n, C) or (n, 1), that need not sum to 1; all 0 gives zeros."""
    shares = weights / weights.sum(0).clamp(min=torch.finfo(weights.dtype).tiny)
    mean = (shares * means).sum(0)
    between = means - mean
    return mean, (shares * torch.addcmul(variances, between, between)).sum(0)


def weight_gradient(
    entries: Sequence[Followed],
    carried: Moved,
    apart: Tensor,
    total: Tensor,
    projected: Tensor,
    share: Share,
    rho: float = 1.0,
) -> tuple[Tensor | None, Tensor]:
    """Gradient with respect to the weights, (C, D), and the bias, (C,), through the pooled statistics' earlier part.

    Args:
        apart: (n, C), the entries' means minus the pooled one.
        total: (C,), gradient of the pooled mean. projected: (C,), twice that of the pooled variance.
        share: of each entry in the pool, a number or (n, C).
    """
    by_mean = grad_means = torch.addcmul(total, projected, apart)
    by_slope = carried.leads * projected
    if carried.shifts is not None:
        above = carried.vars > 0  # where Taylor's floor is, there is no gradient
        by_slope = by_slope.mul_(above)
        by_mean = torch.addcmul(grad_means, projected * above, carried.shifts, value=-1)
    shares = [share * rho] * len(entries) if isinstance(share, float) else list(share * rho)
    grad = None
    for entry, from_mean, from_slope, factor in zip(entries, by_mean, by_slope, shares):
        if grad is None:
            grad = entry.slope * (from_slope * factor).unsqueeze(1)
        else:
            _add_outer(grad, from_slope, entry.slope, factor)
        _add_outer(grad, from_mean, entry.patch, factor)
    return grad, grad_means


def blend(
    earlier: Entry,
    carried: Carried,
    share: Share,
    matrix: Tensor,
    new: Entry,
    grad: Tensor | None,
    scale: Share,
    compensation: str,
    var: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """The mixture of an earlier average under today's weights and the batch just seen: patch, slope and its ``own``.

    With blend ``b``, ``m <- (1-b) m + b m_new`` and the functional ``G <- (1-b) G + b g + b (1-b) delta (m_new - m)``,
    where ``G = a V / <a, w>`` is that of the earlier average and ``delta`` the means' difference. ``<G, w>`` is the
    mixture's variance by construction.

    Args:
        share: b.
        grad, scale: (C, D) and a number or (C,), whose product is g.
        var: the mixture's variance; None if the means' difference is not that of ``<m, w>`` (rho).
    """
    if new.patch is None or earlier.patch is None or earlier.slope is None or carried.leads is None or grad is None:
        return None, None, None
    gap, lead, rest = carried.gaps[0], carried.leads[0], 1 - share
    if compensation != 'secant':
        lead = (carried.vars[0] / row_dot(earlier.slope, matrix)).masked_fill_(carried.unknown[0], 0)
    functional = earlier.slope * (lead * rest).unsqueeze(1)
    _add_outer(functional, gap, new.patch - earlier.patch, share * rest)
    if isinstance(scale, Tensor):
        _add_outer(functional, scale, grad, share)
    elif isinstance(share, Tensor):
        functional.add_(grad * (scale * share))
    else:
        functional.add_(grad, alpha=scale * share)
    if var is None:
        own = row_dot(functional, matrix)
    else:  # where the average says nothing the functional is the batch's part of it
        own = torch.where(carried.unknown[0], var * share, var)
    return torch.lerp(earlier.patch, new.patch, share), functional, nonzero(own)
