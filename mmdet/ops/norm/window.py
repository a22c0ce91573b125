"""The window of CBN: the earlier batches, and what is asked of them."""

from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from .algebra import (
    TINY,
    Carried,
    Entry,
    Followed,
    Moved,
    Share,
    blend,
    carry,
    nonzero,
    pool,
    row_dot,
    weight_gradient,
    weighted_pool,
)

P = ParamSpec('P')
R = TypeVar('R')


class History(NamedTuple):
    """The earlier batches that one iteration pools."""

    entries: tuple[Entry, ...]
    carried: Carried
    share: float  # of the current batch in the pool; the entries have the rest in equal parts


def compiles(device: torch.device) -> bool:
    """Whether ``torch.compile`` makes few launches out of many there."""
    return device.type == 'cuda' and find_spec('triton') is not None


@cache
def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    return torch.compile(function)


class Window:
    """Earlier batches, carried to today's weights, pooled with the current one, and their gradient.

    ``'sliding'``: the last ``length`` batches, equally weighted. ``'exponential'``: one running average of them, whose
    size does not depend on the length. There the current batch has the share ``1 / (length + 1)``; until as many were
    seen, all have the same, as in a sliding window.

    Args:
        length: number of earlier batches.
        compensation, rho: see :func:`.algebra.carry`.
        compile: ``'auto'``: the algebra runs compiled where :func:`compiles` says so.
    """

    def __init__(
        self, length: int, kind: str = 'sliding', compensation: str = 'taylor', rho: float = 1.0, compile: str = 'off'
    ) -> None:
        self.length, self.kind, self.compensation, self.rho, self.compile = length, kind, compensation, rho, compile
        self.entries: deque[Entry] = deque(maxlen=length if kind == 'sliding' else 1)
        self.count = 0  # batches that are in it

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(t.nbytes for entry in self.entries for t in entry if isinstance(t, Tensor))

    def look_back(self, mean: Tensor, var: Tensor, matrix: Tensor, length: int) -> History | None:
        """The last ``length`` batches under the weights ``matrix``, beside a batch of that mean (without the
        convolution's bias) and variance; None if there are none."""
        if not (length and self.entries):
            return None
        if self.entries[-1].mean.device != mean.device or self.entries[-1].mean.dtype != mean.dtype:
            self._set(
                Entry._make(t.to(mean.device, mean.dtype) if isinstance(t, Tensor) else t for t in entry)
                for entry in self.entries
            )
        entries = tuple(self.entries)[-length:]
        carried = self._run(carry, mean)(entries, matrix, mean, var, self.compensation, self.rho)
        return History(entries, carried, 1 / (min(self.count, length) + 1))

    def pool(self, mean: Tensor, var: Tensor, history: History) -> tuple[Tensor, Tensor]:
        """See :func:`.algebra.pool`."""
        return self._run(pool, mean)(mean, var, history.carried, history.share)

    def gradient(
        self, history: History, apart: Tensor, total: Tensor, projected: Tensor, share: Share
    ) -> tuple[Tensor | None, Tensor]:
        """See :func:`.algebra.weight_gradient`."""
        entries, carried = cast('tuple[Followed, ...]', history.entries), cast(Moved, history.carried)
        return self._run(weight_gradient, total)(entries, carried, apart, total, projected, share, self.rho)

    def push(
        self,
        new: Entry,
        grad: Tensor | None,
        scale: Share,
        matrix: Tensor,
        length: int,
        history: History | None = None,
        pooled: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Take a batch in.

        Args:
            new: statistics and patch of the batch.
            grad, scale: half the gradient of its variance up to a factor, (C, D), and that factor, a number or (C,).
            matrix: the weights that made the batch, (C, D).
            history: what the forward saw of the window. pooled: the mean (without bias) and variance it pooled.
        """
        earlier = None
        if self.kind == 'exponential':
            # Nothing came between forward and backward, as a rule: the average is the one that was carried.
            if history is None or not self.entries or history.entries[0] is not self.entries[0]:
                history, pooled = self.look_back(new.mean, new.var, matrix, length), None
            self.count = min(self.count, length)
            earlier = history and history.entries[0]
        if history is not None and earlier is not None:
            new = self._mix(new, grad, scale, matrix, history, pooled)
        elif grad is not None:
            new = new._replace(slope=grad, own=nonzero(row_dot(grad, matrix)))
        self.entries.append(_only_finite(new, earlier) if new.var.is_cuda else new)
        self.count = min(self.count + 1, self.length)

    def _mix(
        self,
        new: Entry,
        grad: Tensor | None,
        scale: Share,
        matrix: Tensor,
        history: History,
        pooled: tuple[Tensor, Tensor] | None,
    ) -> Entry:
        share: Share
        (earlier,), carried, share = history
        weight: Share = 1.0
        if isinstance(new.weight, Tensor) or isinstance(earlier.weight, Tensor):  # parts of what all processes saw
            weights = torch.stack(
                [new.var.new_full((), part) * each.weight for part, each in ((share, new), (1 - share, earlier))]
            )
            weight = weights.sum()
            share = weights[0] / weight.clamp(min=TINY)
            pooled = weighted_pool(
                weights.unsqueeze(1),
                torch.stack([new.mean, new.mean - carried.gaps[0]]),
                torch.stack([new.var, carried.vars[0]]),
            )
        mean, var = pooled or self.pool(new.mean, new.var, history)
        return Entry(
            weight,
            mean,
            var,
            *self._run(blend, mean)(
                earlier, carried, share, matrix, new, grad, scale, self.compensation, var if self.rho == 1 else None
            ),
        )

    def _run(self, function: Callable[P, R], where: Tensor) -> Callable[P, R]:
        return _compiled(function) if self.compile == 'auto' and compiles(where.device) else function

    def _set(self, entries: Iterable[Entry]) -> None:
        self.entries = deque(entries, maxlen=self.entries.maxlen)

    def clear(self) -> None:
        """Forget every batch."""
        self.entries.clear()
        self.count = 0

    def state(self) -> dict:
        """Everything, in plain containers."""
        return dict(
            kind=self.kind,
            count=self.count,
            entries=[
                dict(
                    weight=torch.as_tensor(entry.weight),
                    stats=torch.stack([entry.mean, entry.var]),
                    patch=entry.patch,
                    slope=entry.slope,
                    own=entry.own,
                )
                for entry in self.entries
            ],
        )

    def load(self, state: dict) -> None:
        """Restore :meth:`state`."""
        self._set(map(_load_entry, state['entries']))
        self.count = min(int(state.get('count', len(self.entries))), self.length)


def _only_finite(new: Entry, earlier: Entry | None) -> Entry:
    """Without asking the device: what came of a batch that overflowed stays as it was before, or says nothing."""
    finite = new.var < torch.inf
    if earlier is None:
        nothing = (
            None if t is None else torch.full_like(t, value) for t, value in zip(new[1:], (0, -1, 0, 0, torch.inf))
        )
        earlier = Entry._make((1.0, *nothing))
    masks = (finite, finite, finite.any(), finite.unsqueeze(1), finite)
    kept = (
        None if t is None or old is None else torch.where(mask, t, old)
        for mask, t, old in zip(masks, new[1:], earlier[1:])
    )
    return Entry._make((new.weight, *kept))


def _load_entry(saved: dict) -> Entry:
    weight, stats, slope, own = saved['weight'], saved['stats'], saved['slope'], saved.get('own')
    if float(weight) == 1:
        weight = 1.0
    elif not float(weight):  # of a batch that overflowed, before there were negative variances
        stats = torch.stack([stats[0], torch.full_like(stats[1], -1)])
    if own is None and slope is not None:  # slopes used to be kept divided by it
        own = torch.ones_like(stats[0])
    return Entry(weight, stats[0], stats[1], saved['patch'], slope, own)
