"""The window of CBN: earlier batches, carried to today's weights and pooled.

Two windows with one interface: :class:`SlidingWindow` keeps each of the last batches, :class:`ExponentialWindow` one
running average whose size does not depend on its length.
"""
from collections import deque
from typing import Callable, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from .conv_stats import row_dot

COMPENSATIONS = ('taylor', 'secant', 'none')


class Entry(NamedTuple):
    """An earlier batch: its statistics and what they need to follow the weights. G groups, D numbers a filter.

    Without compensation the last three are None.
    """
    weight: Tensor  # (): its weight in the pool; 0 for a batch that overflowed
    mean: Tensor  # (C_out,): without the convolution's bias
    var: Tensor  # (C_out,): biased
    patch: Optional[Tensor] = None  # (G, D): mean input patch m, so that the mean is <w_c, m>
    slope: Optional[Tensor] = None  # (C_out, D): a_c = g_c / <g_c, w0_c>, g_c = half the variance's gradient
    offset: Optional[Tensor] = None  # (C_out,): 1 where there is no slope, which makes <a_c, w_c> + offset 1 at w0

    def map(self, fn: Callable[[Tensor], Tensor]) -> 'Entry':
        """``fn`` of every tensor."""
        return Entry(*(None if t is None else fn(t) for t in self))


class Carried(NamedTuple):
    """n entries under today's weights."""
    weights: Tensor  # (n,)
    means: Tensor  # (n, C_out): without the convolution's bias
    vars: Tensor  # (n, C_out)
    shifts: Optional[Tensor] = None  # (n, C_out): change of the mean; None without compensation
    growths: Optional[Tensor] = None  # (n, C_out): relative change of the standard deviation, to first order


def make_entry(weight: Tensor, mean: Tensor, var: Tensor, patch: Optional[Tensor] = None,
               slope: Optional[Tensor] = None, offset: Optional[Tensor] = None) -> Entry:
    """An entry of the batch just seen; one that is not finite is kept as zeros with weight 0. Takes over ``slope``."""
    # No host synchronization; small sums tell, as a slope that is not finite has an offset that is not.
    parts = [t for t in (mean, var, patch, offset) if t is not None]
    finite = torch.isfinite(torch.stack([t.sum() for t in parts]).sum())
    if slope is not None:
        slope.masked_fill_(~finite, 0)
    return Entry(*(t if t is None or t is slope else torch.where(finite, t, 0)
                   for t in (weight, mean, var, patch, slope, offset)))


def carry(entries: Sequence[Entry], matrix: Tensor, compensation: str, rho: float = 1.0) -> Carried:
    """Mean and variance of earlier batches under today's weights.

    ``mu`` is linear and the variance quadratic in ``w``, so with Euler's identity the old weights cancel. With
    ``r = <a, w>``, 1 at the old weights:

    - ``'taylor'``, the paper's (its eq. 7 to 10): ``nu = E[y^2]`` and ``mu`` expanded to first order and
      ``max(nu, mu^2)`` pooled: ``var0 (1 + 2 (r - 1)) - (mu(w) - mu0)^2``, at least 0.
    - ``'secant'``: ``var0 r^2``. By Cauchy-Schwarz on the patch covariance, never above the true variance, and never
      below Taylor's.
    - ``'none'``: as they were.

    Args:
        matrix: today's weights, (C_out, D).
        rho: scale of the compensation: the way from the old weights to today's that is accounted for, 0 to 1.
    """
    weights = torch.stack([entry.weight for entry in entries])
    means = torch.stack([entry.mean for entry in entries])
    variances = torch.stack([entry.var for entry in entries])
    if compensation == 'none':
        return Carried(weights, means, variances)
    shifts = rho * (torch.stack([row_dot(entry.patch, matrix) for entry in entries]) - means)
    steps = torch.stack([row_dot(entry.slope, matrix) + entry.offset for entry in entries]) - 1
    # Filters that turned away from what they were (weights re-initialized or loaded) are no small step: dropped.
    jumped = (steps.abs() > 0.5).to(steps.dtype).mean(1) > 0.5
    weights = torch.where(jumped, 0, weights)
    growths = rho * steps
    if compensation == 'secant':
        variances = variances * (1 + growths).square()
    else:
        variances = (variances * (1 + 2 * growths) - shifts.square()).clamp(min=0)
    return Carried(weights, means + shifts, variances, shifts, growths)


def carry_backward(entries: Sequence[Entry], carried: Carried, grad_means: Tensor, grad_vars: Tensor,
                   compensation: str, rho: float = 1.0) -> Tensor:
    """Gradient with respect to the weights, (C_out, D), of what :func:`carry` returned.

    Args:
        carried: the result of :func:`carry` for ``entries``.
        grad_means, grad_vars: (n, C_out).
    """
    initial = torch.stack([entry.var for entry in entries])
    if compensation == 'secant':
        grad_steps = 2 * rho * initial * (1 + carried.growths) * grad_vars
        grad_shifts = rho * grad_means
    else:
        grad_vars = torch.where(carried.vars > 0, grad_vars, 0)
        grad_steps = 2 * rho * initial * grad_vars
        grad_shifts = rho * (grad_means - 2 * carried.shifts * grad_vars)
    patches = torch.stack([entry.patch for entry in entries], 1)  # (G, n, D)
    grad = (grad_shifts.t().unflatten(0, (len(patches), -1)) @ patches).flatten(0, 1)
    for entry, coefficient in zip(entries, grad_steps):
        grad.addcmul_(entry.slope, coefficient.unsqueeze(1))
    return grad


def pool(weights: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Total mean and variance: within plus between, so that nothing cancels in float32.

    Args:
        weights: (n,), at least one above 0; need not sum to 1.
        means, variances: (n, C).
    """
    share = (weights / weights.sum()).unsqueeze(1)
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


class SlidingWindow:
    """The last ``length`` batches, equally weighted."""

    kind = 'sliding'

    def __init__(self, length: int) -> None:
        self.length = length
        self.entries: deque[Entry] = deque(maxlen=self.slots)

    @property
    def slots(self) -> int:
        """Most entries that are kept."""
        return self.length

    def __len__(self) -> int:
        return len(self.entries)

    def members(self, length: int) -> tuple[list[Entry], float, float]:
        """The entries to pool, by what to multiply the current batch's weight, and by what theirs.

        Args:
            length: earlier batches to pool, at most.
        """
        return list(self.entries)[-length:] if length else [], 1., 1.

    def push(self, entry: Entry, matrix: Tensor, length: int, compensation: str, rho: float) -> None:
        """Take a batch in; ``matrix`` are the weights that made it, (C_out, D)."""
        self.entries.append(entry)

    def map_(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor by ``fn`` of it."""
        self.entries = deque((entry.map(fn) for entry in self.entries), maxlen=self.slots)

    def clear(self) -> None:
        """Forget every batch."""
        self.entries.clear()

    def state(self) -> dict:
        """Everything, in plain containers."""
        return dict(kind=self.kind, entries=[entry._asdict() for entry in self.entries])

    def load(self, state: dict) -> None:
        """Restore :meth:`state`."""
        self.entries = deque((Entry(**entry) for entry in state['entries']), maxlen=self.slots)


class ExponentialWindow(SlidingWindow):
    """An exponential average over batches, in one entry whatever the length.

    The current batch has the share ``1 / (length + 1)``; until as many were seen, all have the same share, as in a
    sliding window. Average mean patch, variance and slope stay those of one distribution, the mixture of the batches:
    with ``delta = mu_new - mu`` and blend ``b``

        V <- (1-b) V + b sigma^2 + b (1-b) delta^2,    m <- (1-b) m + b m_new,
        G <- (1-b) G + b g + b (1-b) delta (m_new - m),    a = G / <G, w>,

    where ``G = a V / <a, w>`` is the functional of the average under today's weights, so that ``<G, w>`` is ``V``.
    """

    kind = 'exponential'

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.count = 0  # batches in the average, at most the length

    @property
    def slots(self) -> int:
        return 1

    def members(self, length: int) -> tuple[list[Entry], float, float]:
        blend = 1 / (min(self.count, length) + 1)
        return (list(self.entries) if blend < 1 else []), blend, 1 - blend

    def push(self, entry: Entry, matrix: Tensor, length: int, compensation: str, rho: float) -> None:
        entries, own, old = self.members(length)
        self.count = min(min(self.count, length) + 1, self.length)
        if entries:
            carried = carry(entries, matrix, compensation, rho)
            entry = _blend(entries[0], carried, old * carried.weights[0], entry, own * entry.weight, matrix, rho)
        self.entries.append(entry)

    def clear(self) -> None:
        super().clear()
        self.count = 0

    def state(self) -> dict:
        return dict(super().state(), count=self.count)

    def load(self, state: dict) -> None:
        super().load(state)
        self.count = min(int(state['count']), self.length)


def _blend(earlier: Entry, carried: Carried, weight: Tensor, new: Entry, new_weight: Tensor, matrix: Tensor,
           rho: float) -> Entry:
    """The mixture of an earlier average, carried to the weights ``matrix``, and a new batch under them."""
    total_weight = weight + new_weight
    b = torch.where(total_weight > 0, new_weight / total_weight, 0)
    mean, var = carried.means[0], carried.vars[0]
    delta = new.mean - mean
    total = (1 - b) * var + b * new.var + b * (1 - b) * delta.square()
    if new.patch is None:
        return Entry(total_weight, mean + b * delta, total)
    ratio = 1 + carried.growths[0] / (rho or 1)  # <a, w>
    kept = torch.where(ratio.abs() > 1e-6, (1 - b) * var / ratio, 0)
    functional = earlier.slope * kept.unsqueeze(1)
    functional.addcmul_(new.slope, (b * new.var).unsqueeze(1))
    step = (new.patch - earlier.patch).unsqueeze(1)  # (G, 1, D)
    cross = (b * (1 - b) * delta).unflatten(0, (len(step), -1)).unsqueeze(2)  # (G, C/G, 1)
    functional.unflatten(0, (len(step), -1)).addcmul_(cross, step)
    own = row_dot(functional, matrix)
    slope = torch.where((own > 0.5 * total).unsqueeze(1), functional / own.unsqueeze(1), 0)
    patch = earlier.patch + b * (new.patch - earlier.patch)
    return Entry(total_weight, mean + b * delta, total, patch, slope, 1 - row_dot(slope, matrix))
