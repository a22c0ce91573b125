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
    """An earlier batch: its statistics and what they need to follow the weights. G groups, D numbers a filter."""
    weight: Tensor  # (): its weight in the pool; 0 for a batch that overflowed
    stats: Tensor  # (3, C_out): mean without the convolution's bias; biased variance; 1 where there is no slope, else 0
    patch: Optional[Tensor] = None  # (G, D): mean input patch m, so that the mean is <w_c, m>
    slope: Optional[Tensor] = None  # (C_out, D): a_c = g_c / <g_c, w0_c>, g_c = half the variance's gradient

    def map(self, fn: Callable[[Tensor], Tensor]) -> 'Entry':
        """``fn`` of every tensor."""
        return Entry(*(None if t is None else fn(t) for t in self))

    @property
    def mean(self) -> Tensor:
        return self.stats[0]

    @property
    def var(self) -> Tensor:
        return self.stats[1]


class Carried(NamedTuple):
    """n entries under today's weights."""
    weights: Tensor  # (n,)
    means: Tensor  # (n, C_out): without the convolution's bias
    vars: Tensor  # (n, C_out)
    shifts: Optional[Tensor] = None  # (n, C_out): change of the mean; Taylor only
    half_slopes: Optional[Tensor] = None  # (n, C_out): half the derivative of the variance by <a, w>
    ratios: Optional[Tensor] = None  # (n, C_out): <a, w>, 1 at the old weights


def make_entry(weight: Tensor, mean: Tensor, var: Tensor, patch: Optional[Tensor] = None,
               slope: Optional[Tensor] = None, own: Optional[Tensor] = None) -> Entry:
    """An entry of the batch just seen; one that is not finite is kept as zeros with weight 0. Takes over ``slope``.

    Args:
        own: (C_out,), :func:`.conv_stats.slopes`' second result.
    """
    slopeless = torch.zeros_like(mean) if own is None else (own <= 0).to(mean.dtype)
    stats = torch.stack([mean, var, slopeless])
    # Small sums tell, as a slope that is not finite has an ``own`` that is not.
    total = stats.sum() if patch is None else stats.sum() + patch.sum() + own.sum()
    bad = (total - total) != 0
    if not stats.is_cuda and not bad:
        return Entry(weight, stats, patch, slope)
    if slope is not None:  # on a GPU without asking: no host synchronization
        slope.masked_fill_(bad, 0)
        patch = patch.masked_fill(bad, 0)
    return Entry(weight.masked_fill(bad, 0), stats.masked_fill_(bad, 0), patch, slope)


def _stack(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)


def carry(entries: Sequence[Entry], matrix: Tensor, compensation: str, rho: float = 1.0) -> Carried:
    """Mean and variance of earlier batches under today's weights.

    ``mu`` is linear and the variance quadratic in ``w``, so with Euler's identity the old weights cancel. With
    ``r = <a, w>``, 1 at the old weights:

    - ``'taylor'``, the paper's: ``nu = E[y^2]`` and ``mu`` expanded to first order and ``max(nu, mu^2)`` pooled:
      ``var0 (1 + 2 (r - 1)) - (mu(w) - mu0)^2``, at least 0.
    - ``'secant'``: ``var0 r^2``. By Cauchy-Schwarz on the patch covariance, never above the true variance, and never
      below Taylor's.
    - ``'none'``: as they were.

    Args:
        matrix: today's weights, (C_out, D).
        rho: scale of the compensation: the way from the old weights to today's that is accounted for, 0 to 1.
    """
    weights = _stack([entry.weight for entry in entries])
    means, variances, slopeless = _stack([entry.stats for entry in entries]).unbind(1)
    if compensation == 'none':
        return Carried(weights, means, variances)
    ratios = _stack([row_dot(entry.slope, matrix) for entry in entries]) + slopeless
    # Filters that turned away from what they were (weights re-initialized or loaded) are no small step: dropped.
    turned = ((ratios - 1).abs() > 0.5).sum(1) > 0.5 * len(matrix)
    weights = weights.masked_fill(turned, 0)
    new_means = _stack([row_dot(entry.patch, matrix) for entry in entries])
    far = ratios
    if rho != 1:
        new_means, far = torch.lerp(means, new_means, rho), 1 + rho * (ratios - 1)
    if compensation == 'secant':
        half_slopes = variances * far
        return Carried(weights, new_means, half_slopes * far, None, half_slopes, ratios)
    shifts = new_means - means
    new_variances = torch.addcmul(variances * (2 * far - 1), shifts, shifts, value=-1).clamp_(min=0)
    return Carried(weights, new_means, new_variances, shifts, variances, ratios)


def carry_backward(entries: Sequence[Entry], carried: Carried, grad_means: Tensor, grad_vars: Tensor,
                   rho: float = 1.0) -> Tensor:
    """Gradient with respect to the weights, (C_out, D), of what :func:`carry` returned.

    Args:
        carried: the result of :func:`carry` for ``entries``.
        grad_means, grad_vars: (n, C_out).
    """
    if carried.shifts is not None:
        grad_vars = grad_vars * (carried.vars > 0)
        grad_means = torch.addcmul(grad_means, carried.shifts, grad_vars, value=-2)
    if rho != 1:
        grad_means = rho * grad_means
    patches = torch.stack([entry.patch for entry in entries], 1)  # (G, n, D)
    grad = (grad_means.t().unflatten(0, (len(patches), -1)) @ patches).flatten(0, 1)
    by_ratio = 2 * rho * carried.half_slopes * grad_vars
    for entry, coefficient in zip(entries, by_ratio):
        grad.addcmul_(entry.slope, coefficient.unsqueeze(1))
    return grad


def pool(weights: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Total mean and variance: within plus between, so that nothing cancels in float32.

    Args:
        weights: (n,); need not sum to 1. All 0 gives zeros.
        means, variances: (n, C).

    Returns:
        mean (C,), variance (C,), and shares (n,), which sum to 1.
    """
    shares = weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
    mean = shares @ means
    between = means - mean
    return mean, shares @ torch.addcmul(variances, between, between), shares


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

    def push(self, entry: Entry, matrix: Tensor, length: int, compensation: str, rho: float,
             carried: Optional[Carried] = None) -> None:
        """Take a batch in.

        Args:
            matrix: the weights that made the batch, (C_out, D).
            carried: what :func:`carry` says of the entries under them, if known.
        """
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

    def push(self, entry: Entry, matrix: Tensor, length: int, compensation: str, rho: float,
             carried: Optional[Carried] = None) -> None:
        entries, own, old = self.members(length)
        self.count = min(min(self.count, length) + 1, self.length)
        if entries:
            carried = carried or carry(entries, matrix, compensation, rho)
            entry = _blend(entries[0], carried, old, entry, own, matrix, compensation)
        self.entries.append(entry)

    def clear(self) -> None:
        super().clear()
        self.count = 0

    def state(self) -> dict:
        return dict(super().state(), count=self.count)

    def load(self, state: dict) -> None:
        super().load(state)
        self.count = min(int(state['count']), self.length)


def _blend(earlier: Entry, carried: Carried, old: float, new: Entry, own: float, matrix: Tensor,
           compensation: str) -> Entry:
    """The mixture of an earlier average, carried to the weights ``matrix``, and a new batch under them.

    Args:
        old, own: what to multiply the weights of the earlier average and of the new batch by.
    """
    new_weight = own * new.weight
    weight = torch.add(new_weight, carried.weights[0], alpha=old)
    b = new_weight / weight.clamp(min=torch.finfo(weight.dtype).tiny)
    c = 1 - b
    mean, var = carried.means[0], carried.vars[0]
    delta = new.mean - mean
    cross, new_part = b * c * delta, b * new.var
    total = torch.addcmul(torch.addcmul(new_part, c, var), cross, delta)
    if new.patch is None:
        return Entry(weight, torch.stack([torch.addcmul(mean, b, delta), total, new.stats[2]]))
    if compensation == 'secant':
        kept = c * carried.half_slopes[0]  # V / <a, w> without the division
    else:
        ratio = carried.ratios[0]
        kept = (c * var / ratio).masked_fill_(ratio.abs() < 1e-6, 0)
    functional = earlier.slope * kept.unsqueeze(1)
    functional.addcmul_(new.slope, new_part.unsqueeze(1))
    step = new.patch - earlier.patch  # (G, D)
    functional.unflatten(0, (len(step), -1)).addcmul_(cross.view(len(step), -1, 1), step.unsqueeze(1))
    slopeless = (own_var := row_dot(functional, matrix)) <= 0.5 * total
    functional.mul_(own_var.reciprocal_().masked_fill_(slopeless, 0).unsqueeze(1))
    stats = torch.stack([torch.addcmul(mean, b, delta), total, slopeless.to(total.dtype)])
    return Entry(weight, stats, torch.addcmul(earlier.patch, b, step), functional)
