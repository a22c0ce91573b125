"""The window of CBN: earlier batches, carried to today's weights, pooled with the current one, and their gradient.

The algebra is in four functions of tensors, (C,) or (C, D), which compile without a graph break: :func:`carry` and
:func:`pool` (what the forward needs), :func:`weight_gradient` (what the backward gives), :func:`blend` (what enters
the window). The two windows keep the entries: :class:`SlidingWindow` each of the last batches,
:class:`ExponentialWindow` one running average, whose size does not depend on its length.
"""
from collections import deque
from functools import lru_cache
from importlib.util import find_spec
from typing import Callable, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

COMPENSATIONS = ('taylor', 'secant', 'none')
#: a filter with ``|<a, w> - 1|`` above this has not taken a step but was initialized or loaded anew
TURNED = 0.5
#: below it a sum of squares is none
TINY = 1e-30

Share = Union[float, Tensor]


class Entry(NamedTuple):
    """An earlier batch: its statistics and what they need to follow the weights. G groups, D numbers a filter."""
    weight: Share  # in the pool; 1 but for processes that pool with others
    mean: Tensor  # (C,): without the convolution's bias
    var: Tensor  # (C,): biased variance; negative: the channel was not finite
    patch: Optional[Tensor] = None  # (G, D): mean input patch m, so that the mean is <w_c, m>
    slope: Optional[Tensor] = None  # (C, D): half the gradient of the variance, up to a factor; a_c = slope_c / own_c
    own: Optional[Tensor] = None  # (C,): <slope_c, w0_c>; infinity where the slope is not known


class Carried(NamedTuple):
    """n entries under today's weights, as seen from the current batch, which stands in where one says nothing."""
    gaps: Tensor  # (n, C): the current batch's mean minus theirs
    vars: Tensor  # (n, C)
    unknown: Tensor  # (n, C): where the entry says nothing of the channel
    leads: Optional[Tensor] = None  # (n, C): times its slope half the variance's gradient by the weights
    shifts: Optional[Tensor] = None  # (n, C): change of the mean, where the variance depends on it (Taylor)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0].unsqueeze(0)


def by_group(values: Tensor, groups: int) -> Tensor:
    """(C, *) as (G, C / G, *)."""
    return values.unflatten(0, (groups, -1))


def row_dot(rows: Tensor, weight: Tensor) -> Tensor:
    """``<rows_c, w_c>`` for each output channel c, (C,).

    Args:
        rows: (C, D), or (G, D) for one row shared by the channels of a group.
        weight: (C, D).
    """
    if len(rows) == len(weight):
        return (rows * weight).sum(1)
    if len(rows) == 1:
        return weight.mv(rows[0])
    return (by_group(weight, len(rows)) @ rows.unsqueeze(2)).flatten()


def carry(entries: Sequence[Entry], matrix: Tensor, mean: Tensor, var: Tensor, compensation: str,
          rho: float = 1.0) -> Carried:
    """Mean and variance of earlier batches under today's weights, beside the current batch's.

    ``mu`` is linear and the variance quadratic in ``w``, so with Euler's identity the old weights cancel. With
    ``r = <a, w>``, 1 at the old weights:

    - ``'taylor'``, the paper's: ``nu = E[y^2]`` and ``mu`` expanded to first order and ``max(nu, mu^2)`` pooled:
      ``var0 (1 + 2 (r - 1)) - (mu(w) - mu0)^2``, at least 0.
    - ``'secant'``: ``var0 r^2``. By Cauchy-Schwarz on the patch covariance, never above the true variance, and never
      below Taylor's.
    - ``'none'``: as they were.

    Args:
        matrix: today's weights, (C, D).
        mean, var: of the current batch, (C,); the mean without the convolution's bias.
        rho: scale of the compensation: the way from the old weights to today's that is accounted for, 0 to 1.
    """
    variances = _stack([entry.var for entry in entries])
    if compensation == 'none':
        unknown = variances < 0
        gaps = mean - _stack([entry.mean for entry in entries])
        return Carried(gaps.masked_fill_(unknown, 0), torch.where(unknown, var, variances), unknown)
    own = _stack([entry.own for entry in entries])
    ratios = _stack([row_dot(entry.slope, matrix) for entry in entries]) / own
    near = ratios.clamp(1 - TURNED, 1 + TURNED)
    unknown = near != ratios
    gaps, shifts = _gaps(entries, matrix, mean), None
    if rho != 1:
        gaps = torch.lerp(mean - _stack([entry.mean for entry in entries]), gaps, rho)
        near = torch.lerp(torch.ones_like(near), near, rho)
    half_slopes = variances
    if compensation == 'secant':
        half_slopes = variances * near
        carried = half_slopes * near
    else:
        shifts = (mean - gaps).sub_(_stack([entry.mean for entry in entries]))
        carried = torch.addcmul(torch.lerp(-variances, variances, near), shifts, shifts, value=-1).clamp_(min=0)
    leads = (half_slopes / own).masked_fill_(unknown, 0)
    return Carried(gaps.masked_fill_(unknown, 0), torch.where(unknown, var, carried), unknown, leads, shifts)


def _gaps(entries: Sequence[Entry], matrix: Tensor, mean: Tensor) -> Tensor:
    """``mean - <m, w>`` of every entry, (n, C)."""
    patches = _stack([entry.patch for entry in entries])  # (n, G, D)
    if patches.shape[1] == 1:
        return torch.addmm(mean, patches.squeeze(1), matrix.t(), alpha=-1)
    return mean - (by_group(matrix, patches.shape[1]) @ patches.permute(1, 2, 0)).flatten(0, 1).t()


def _add_outer(to: Tensor, columns: Tensor, rows: Tensor, factor: Share) -> Tensor:
    """``to + factor * columns rows`` in place: (C, D), (C,), (G, D) or (C, D), and a number or (C,)."""
    if isinstance(factor, Tensor):
        columns, factor = columns * factor, 1.
    groups = len(rows)
    by_group(to, groups).addcmul_(columns.view(groups, -1, 1), rows.unsqueeze(1), value=factor)
    return to


def pool(mean: Tensor, var: Tensor, carried: Carried, share: float) -> tuple[Tensor, Tensor]:
    """Total mean and variance, (C,), within plus between, so that nothing cancels in float32.

    Args:
        mean, var: of the current batch.
        share: of the current batch in the pool; the entries have the rest in equal parts.
    """
    rest = 1 - share
    if len(carried.gaps) == 1:
        gap, within, between = carried.gaps[0], carried.vars[0], share * rest
    else:
        gap, between = carried.gaps.mean(0), -rest**2
        within = torch.addcmul(carried.vars, carried.gaps, carried.gaps).mean(0)
    total = torch.addcmul(torch.lerp(var, within, rest), gap, gap, value=between)
    return torch.add(mean, gap, alpha=-rest), total


def weighted_pool(weights: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`pool` of n sources, with weights of each channel's own.

    Args:
        weights: (n, C) or (n, 1); need not sum to 1. All 0 gives zeros.
        means, variances: (n, C).

    Returns:
        mean (C,), variance (C,), and shares, which sum to 1, in the shape of the weights.
    """
    shares = weights / weights.sum(0).clamp(min=torch.finfo(weights.dtype).tiny)
    mean = (shares * means).sum(0)
    between = means - mean
    return mean, (shares * torch.addcmul(variances, between, between)).sum(0), shares


def weight_gradient(entries: Sequence[Entry], carried: Carried, apart: Tensor, total: Tensor, projected: Tensor,
                    share: Share, rho: float = 1.0) -> tuple[Tensor, Tensor]:
    """Gradient with respect to the weights, (C, D), and the bias, (C,), through the pooled statistics' earlier part.

    Args:
        apart: (n, C), the entries' means minus the pooled one.
        total: (C,), gradient of the pooled mean. projected: (C,), twice that of the pooled variance.
        share: of each entry in the pool, a number or (n, C).
    """
    grad_means = torch.addcmul(total, projected, apart)
    by_slope = carried.leads * projected
    if carried.shifts is not None:
        by_slope = by_slope.mul_(carried.vars > 0)
        by_mean = torch.addcmul(grad_means, projected * (carried.vars > 0), carried.shifts, value=-1)
    else:
        by_mean = grad_means
    shares = [share * rho] * len(entries) if isinstance(share, float) else list(share * rho)
    grad = None
    for entry, from_mean, from_slope, factor in zip(entries, by_mean, by_slope, shares):
        if grad is None:
            grad = entry.slope * (from_slope * factor).unsqueeze(1)
        else:
            _add_outer(grad, from_slope, entry.slope, factor)
        _add_outer(grad, from_mean, entry.patch, factor)
    return grad, grad_means


def nonzero(squares: Tensor) -> Tensor:
    """What can be divided by: infinity for what is no more than rounding."""
    return torch.threshold(squares, TINY, torch.inf)


def blend(earlier: Entry, carried: Carried, share: Share, matrix: Tensor, new: Entry, grad: Optional[Tensor],
          scale: Share, compensation: str, var: Optional[Tensor]) -> tuple[Optional[Tensor], ...]:
    """Patch, slope and its product with the weights, of the mixture of an earlier average under today's weights and the batch just seen.

    With blend ``b``, ``m <- (1-b) m + b m_new`` and the functional ``G <- (1-b) G + b g + b (1-b) delta (m_new - m)``,
    where ``G = a V / <a, w>`` is that of the earlier average and ``delta`` the means' difference. ``<G, w>`` is the
    mixture's variance by construction.

    Args:
        carried: the earlier average, one entry.
        share: b.
        new: the batch; its patch counts.
        grad, scale: (C, D) and a number or (C,), whose product is g.
        var: the mixture's variance; None if the means' difference is not that of ``<m, w>`` (rho).
    """
    if new.patch is None:
        return None, None, None
    gap, rest = carried.gaps[0], 1 - share
    lead = carried.leads[0]
    if compensation != 'secant':
        lead = (carried.vars[0] / row_dot(earlier.slope, matrix)).masked_fill_(carried.unknown[0], 0)
    step = new.patch - earlier.patch
    functional = earlier.slope * (lead * rest).unsqueeze(1)
    _add_outer(functional, gap, step, share * rest)
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


def compiles(device: torch.device) -> bool:
    """Whether ``torch.compile`` makes few launches out of many there."""
    return device.type == 'cuda' and find_spec('triton') is not None


@lru_cache(maxsize=None)
def _compiled(function: Callable) -> Callable:
    return torch.compile(function)


class History(NamedTuple):
    """The earlier batches that one iteration pools."""
    entries: tuple[Entry, ...]
    carried: Carried
    share: float  # of the current batch in the pool; the entries have the rest in equal parts


class SlidingWindow:
    """The last ``length`` batches, equally weighted.

    Args:
        length: number of earlier batches.
        compensation, rho: see :func:`carry`.
        compile: ``'auto'``: the algebra runs compiled where :func:`compiles` says so.
    """

    kind = 'sliding'

    def __init__(self, length: int, compensation: str = 'taylor', rho: float = 1.0, compile: str = 'off') -> None:
        self.length, self.compensation, self.rho, self.compile = length, compensation, rho, compile
        self.entries: deque[Entry] = deque(maxlen=self.slots)

    @property
    def slots(self) -> int:
        """Most entries that are kept."""
        return self.length

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(t.nbytes for entry in self.entries for t in entry if isinstance(t, Tensor))

    def members(self, length: int) -> tuple[tuple[Entry, ...], float]:
        """The entries to pool, and the current batch's share.

        Args:
            length: earlier batches to pool, at most.
        """
        entries = tuple(self.entries)[-length:] if length else ()
        return entries, 1 / (len(entries) + 1)

    def look_back(self, mean: Tensor, var: Tensor, matrix: Tensor, length: int) -> Optional[History]:
        """The earlier batches under the weights ``matrix``, beside a batch of that mean (without bias) and variance."""
        entries, share = self.members(length)
        if not entries:
            return None
        if entries[-1].mean.device != mean.device or entries[-1].mean.dtype != mean.dtype:
            self.map_(lambda t: t.to(mean.device, mean.dtype))
            entries, share = self.members(length)
        carried = self._run(carry, mean)(entries, matrix, mean, var, self.compensation, self.rho)
        return History(entries, carried, share)

    def pool(self, mean: Tensor, var: Tensor, history: History) -> tuple[Tensor, Tensor]:
        """See :func:`pool`."""
        return self._run(pool, mean)(mean, var, history.carried, history.share)

    def gradient(self, history: History, apart: Tensor, total: Tensor, projected: Tensor, share: Share) -> tuple:
        """See :func:`weight_gradient`."""
        return self._run(weight_gradient, total)(history.entries, history.carried, apart, total, projected, share,
                                                 self.rho)

    def _run(self, function: Callable, where: Tensor) -> Callable:
        return _compiled(function) if self.compile == 'auto' and compiles(where.device) else function

    def push(self, new: Entry, grad: Optional[Tensor], scale: Share, matrix: Tensor, length: int,
             history: Optional[History] = None, pooled: Optional[tuple[Tensor, Tensor]] = None) -> None:
        """Take a batch in.

        Args:
            new: statistics and patch of the batch.
            grad, scale: half the gradient of its variance up to a factor, (C, D), and that factor, a number or (C,).
            matrix: the weights that made the batch, (C, D).
            history: what the forward saw of the window. pooled: the mean (without bias) and variance it pooled.
        """
        self._keep(new if grad is None else new._replace(slope=grad, own=nonzero(row_dot(grad, matrix))))

    def _keep(self, new: Entry, earlier: Optional[Entry] = None) -> None:
        if new.var.is_cuda:
            new = _only_finite(new, earlier)
        self.entries.append(new)

    def map_(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor by ``fn`` of it."""
        self.entries = deque((Entry(*(fn(t) if isinstance(t, Tensor) else t for t in entry))
                              for entry in self.entries), maxlen=self.slots)

    def clear(self) -> None:
        """Forget every batch."""
        self.entries.clear()

    def state(self) -> dict:
        """Everything, in plain containers."""
        return dict(kind=self.kind, entries=[
            dict(weight=torch.as_tensor(entry.weight), stats=torch.stack([entry.mean, entry.var]), patch=entry.patch,
                 slope=entry.slope, own=entry.own) for entry in self.entries])

    def load(self, state: dict) -> None:
        """Restore :meth:`state`."""
        self.entries = deque(map(_load_entry, state['entries']), maxlen=self.slots)


class ExponentialWindow(SlidingWindow):
    """An exponential average over batches, in one entry whatever the length, see :func:`blend`.

    The current batch has the share ``1 / (length + 1)``; until as many were seen, all have the same share, as in a
    sliding window. Average mean patch, variance and slope stay those of one distribution, the mixture of the batches.
    """

    kind = 'exponential'

    def __init__(self, length: int, compensation: str = 'taylor', rho: float = 1.0, compile: str = 'off') -> None:
        super().__init__(length, compensation, rho, compile)
        self.count = 0  # batches in the average, at most the length

    @property
    def slots(self) -> int:
        return 1

    def members(self, length: int) -> tuple[tuple[Entry, ...], float]:
        share = 1 / (min(self.count, length) + 1)
        return (tuple(self.entries) if share < 1 else ()), share

    def push(self, new: Entry, grad: Optional[Tensor], scale: Share, matrix: Tensor, length: int,
             history: Optional[History] = None, pooled: Optional[tuple[Tensor, Tensor]] = None) -> None:
        # Nothing came between forward and backward, as a rule: the average is the one that was carried.
        if history is None or not self.entries or history.entries[0] is not self.entries[0]:
            history, pooled = self.look_back(new.mean, new.var, matrix, length), None
        self.count = min(min(self.count, length) + 1, self.length)
        if history is None:
            return super().push(new, grad, scale, matrix, length)
        (earlier, ), carried, share = history
        weight = 1.0
        if isinstance(new.weight, Tensor) or isinstance(earlier.weight, Tensor):
            weights = torch.stack([new.var.new_full((), part) * each.weight
                                   for part, each in ((share, new), (1 - share, earlier))])
            weight = weights.sum()
            share = weights[0] / weight.clamp(min=TINY)
            pooled = weighted_pool(weights.unsqueeze(1), torch.stack([new.mean, new.mean - carried.gaps[0]]),
                                   torch.stack([new.var, carried.vars[0]]))[:2]
        mean, var = pooled or self.pool(new.mean, new.var, history)
        patch, slope, own = self._run(blend, mean)(earlier, carried, share, matrix, new, grad, scale,
                                                   self.compensation, None if self.rho != 1 else var)
        self._keep(Entry(weight, mean, var, patch, slope, own), earlier)

    def clear(self) -> None:
        super().clear()
        self.count = 0

    def state(self) -> dict:
        return dict(super().state(), count=self.count)

    def load(self, state: dict) -> None:
        super().load(state)
        self.count = min(int(state['count']), self.length)


def _only_finite(new: Entry, earlier: Optional[Entry]) -> Entry:
    """Without asking the device: what came of a batch that overflowed stays as it was before, or says nothing."""
    if earlier is None:
        nothing = (None if t is None else torch.zeros_like(t) for t in new[3:5])
        earlier = Entry(1.0, torch.zeros_like(new.mean), torch.full_like(new.var, -1), *nothing,
                        torch.full_like(new.var, torch.inf))
    finite = new.var < torch.inf
    mean, var = torch.where(finite, new.mean, earlier.mean), torch.where(finite, new.var, earlier.var)
    if new.patch is None:
        return new._replace(mean=mean, var=var)
    return Entry(new.weight, mean, var, torch.where(finite.any(), new.patch, earlier.patch),
                 torch.where(finite.unsqueeze(1), new.slope, earlier.slope), torch.where(finite, new.own, earlier.own))


def _load_entry(saved: dict) -> Entry:
    weight, stats = saved['weight'], saved['stats']
    if float(weight) == 1:
        weight = 1.0
    elif not float(weight):  # of a batch that overflowed, before there were negative variances
        stats = torch.stack([stats[0], torch.full_like(stats[1], -1)])
    own = saved.get('own')
    if own is None and saved['slope'] is not None:  # slopes used to be kept divided by it
        own = torch.ones_like(stats[0])
    return Entry(weight, stats[0], stats[1], saved['patch'], saved['slope'], own)
