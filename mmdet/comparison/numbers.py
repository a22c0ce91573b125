"""What a grid's numbers say: means, spread, and which differences are larger than chance."""

from collections.abc import Iterable
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.stats import ttest_ind_from_stats

#: names of metrics, from their keys without the prefix
KINDS = {'segm': 'mask AP', 'bbox': 'box AP'}
SUFFIXES = {'': '', '_50': '50', '_75': '75', '_s': ' small', '_m': ' medium', '_l': ' large'}


class Stat(NamedTuple):
    """Mean and standard deviation (n - 1 in the denominator; None for one value) of n values."""

    mean: float
    sd: float | None
    n: int


def stat(values: Iterable[float]) -> Stat | None:
    """None for no values."""
    values = list(values)
    if not values:
        return None
    return Stat(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def differ(a: Stat, b: Stat) -> bool | None:
    """Whether two means differ by Welch's t test at 95 %, without correction for the number of comparisons.

    None if one of them is of one value, so that nothing is known of its spread.
    """
    if a.sd is None or b.sd is None:
        return None
    if a.sd == b.sd == 0:
        return a.mean != b.mean
    return bool(ttest_ind_from_stats(*a, *b, equal_var=False).pvalue < 0.05)


def over_seeds(cells: Iterable[dict], key: str) -> Stat | None:
    """Of a metric in the last evaluation; -1 stands for no objects of this size."""
    return stat(cell['metrics'][key] for cell in cells if cell['metrics'].get(key, -1) != -1)


def best_rate(rates: dict[float | None, list[dict]], key: str | None) -> float | None:
    """The learning rate, of those with the most cells, that has the highest mean of a metric; None without any.

    Args:
        rates: the finished cells of one norm and batch size by learning rate.
        key: of the metric.
    """
    return max(
        rates, key=lambda lr: (len(rates[lr]), fmean(cell['metrics'].get(key, -1) for cell in rates[lr])), default=None
    )


class Numbers:
    """The finished cells by norm, total batch size and metric; where several learning rates were tried, at the best.

    Args:
        data: contents of ``results.json``.
    """

    def __init__(self, data: dict) -> None:
        self.cells = list(data['cells'].values())
        asked = data.get('grid') or {}
        self.asked_norms = list(asked.get('norms', ()))
        self.asked_totals = [batch * asked.get('processes', 1) for batch in asked.get('batch_sizes', ())]
        self.norms = _unique([*self.asked_norms, *(cell['norm'] for cell in self.cells)])
        self.totals = sorted({*self.asked_totals, *(total_batch(cell) for cell in self.cells)})
        # None is the config's own
        self.every_rate = _in_order([*(asked.get('learning_rates') or ()), *(cell.get('lr') for cell in self.cells)])
        self.seeds = sorted({*asked.get('seeds', ()), *(cell['seed'] for cell in self.cells)})
        found = {key: None for cell in self.cells for key in cell['metrics']}
        # -1 stands for no objects of this size
        self.keys = sorted(
            (key for key in found if any(cell['metrics'].get(key, -1) != -1 for cell in self.cells)), key=_rank
        )

    @property
    def main(self) -> str | None:
        """The metric that the summary speaks of: mask AP, or box AP."""
        return self.keys[0] if self.keys else None

    @property
    def shown(self) -> list[str]:
        """The metrics of the short table: AP and AP50 of each kind."""
        return [key for key in self.keys if _suffix(key) in ('', '_50')] or self.keys[:4]

    def rates(self, norm: str, total: int) -> dict[float | None, list[dict]]:
        """The cells of each learning rate, by seed."""
        cells = sorted(
            (cell for cell in self.cells if cell['norm'] == norm and total_batch(cell) == total),
            key=lambda cell: cell['seed'],
        )
        return {
            lr: [cell for cell in cells if cell.get('lr') == lr] for lr in _in_order(cell.get('lr') for cell in cells)
        }

    def select(self, norm: str, total: int) -> list[dict]:
        """The cells of the best learning rate, by seed."""
        rates = self.rates(norm, total)
        return rates.get(best_rate(rates, self.main), [])

    def rate(self, norm: str, total: int) -> str:
        """Name of the best learning rate; '' if none was asked for, or nothing is finished."""
        cells = self.select(norm, total) if self.every_rate != [None] else []
        return rate_name(cells[0].get('lr')) if cells else ''

    @property
    def compared(self) -> bool:
        """Whether cells differ in learning rate."""
        return len({cell.get('lr') for cell in self.cells}) > 1

    def asked(self, norm: str, total: int) -> bool:
        """Whether the last command line asked for it; the cells of earlier ones stay in the results."""
        return norm in self.asked_norms and total in self.asked_totals

    def stat(self, norm: str, total: int, key: str) -> Stat | None:
        """Over seeds, of the last evaluation."""
        return over_seeds(self.select(norm, total), key)

    def column(self, total: int, key: str) -> dict[str, Stat]:
        """The norms that have a value, best first."""
        stats = {norm: self.stat(norm, total, key) for norm in self.norms}
        known = {norm: value for norm, value in stats.items() if value is not None}
        return dict(sorted(known.items(), key=lambda item: -item[1].mean))

    def clear_best(self, total: int, key: str) -> str | None:
        """The norm that differs from every other, and is above them; None if there is no such norm."""
        column = self.column(total, key)
        if len(column) < 2:
            return None
        best, *others = column
        return best if all(differ(column[best], column[other]) for other in others) else None


def total_batch(cell: dict) -> int:
    """Images of an iteration, over all processes."""
    return cell['batch_size'] * cell.get('processes', 1)


def rate_name(lr: float | None) -> str:
    """'lr 0.01'."""
    return "config's lr" if lr is None else f'lr {lr:g}'


def _in_order(rates: Iterable[float | None]) -> list[float | None]:
    return sorted(set(rates), key=lambda lr: lr or 0)


def _unique(values: Iterable) -> list:
    return list(dict.fromkeys(values))


def _suffix(key: str) -> str | None:
    return key.rpartition('_mAP')[2] if '_mAP' in key else None


def _rank(key: str) -> tuple:
    kind = key.rpartition('/')[2].partition('_mAP')[0]
    suffix = _suffix(key)
    return (
        suffix is None,
        list(SUFFIXES).index(suffix) if suffix in SUFFIXES else 9,
        list(KINDS).index(kind) if kind in KINDS else 9,
        key,
    )


def metric_name(key: str) -> str:
    """'mask AP50' for 'coco/segm_mAP_50'."""
    kind, found, suffix = key.rpartition('/')[2].partition('_mAP')
    return KINDS.get(kind, f'{kind} AP') + SUFFIXES.get(suffix, suffix) if found else key


def _signed(difference: float) -> str:
    return f'{100 * difference:+.1f}'.replace('-', '−')


def per_cent(value: Stat | None) -> str:
    """'31.2 ± 0.4' for a metric from 0 to 1."""
    if value is None:
        return '–'
    text = f'{100 * value.mean:.1f}'
    return text if value.sd is None else f'{text} ± {100 * value.sd:.1f}'


def summary(numbers: Numbers) -> list[str]:
    """Sentences on the main metric; none of them says more than the spread over seeds allows."""
    key = numbers.main
    if key is None:
        return ['Nothing is finished yet.']
    name = metric_name(key)
    lines = []
    for total in numbers.totals:
        line = _compare(numbers.column(total, key), name)
        if line:
            lines.append(f'Batch size {total}: {line}')
    filled = [total for total in numbers.totals if numbers.column(total, key)]
    if len(filled) > 1:
        small, large = filled[0], filled[-1]
        changes = []
        for norm in numbers.norms:
            low, high = numbers.stat(norm, small, key), numbers.stat(norm, large, key)
            if low and high:
                changes.append(f'{norm} {_signed(low.mean - high.mean)}{_remark(differ(low, high))}')
        if changes:
            lines.append(
                f'{name[0].upper() + name[1:]} at batch size {small} minus that at {large}: {", ".join(changes)}.'
            )
        lines += _against_large(numbers, key, small, large)
    lines += at_edge(numbers)
    return lines or ['Nothing is finished yet.']


def _remark(different: bool | None) -> str:
    return {None: ' (one seed)', False: ' (within the spread)', True: ''}[different]


def _compare(column: dict[str, Stat], name: str) -> str:
    if not column:
        return ''
    best, *others = column
    line = f'{best} has the highest mean {name}, {per_cent(column[best])}'
    if not others:
        return line + '; no other norm is finished.'
    worse = [other for other in others if differ(column[best], column[other])]
    alike = [other for other in others if differ(column[best], column[other]) is False]
    unknown = [other for other in others if differ(column[best], column[other]) is None]
    if worse:
        line += '; clearly above ' + ', '.join(f'{other} ({per_cent(column[other])})' for other in worse)
    if alike:
        line += '; within the spread of the seeds of ' + ', '.join(
            f'{other} ({per_cent(column[other])})' for other in alike
        )
    if unknown:
        line += '; with one seed, chance cannot be ruled out in the difference to ' + ', '.join(
            f'{other} ({per_cent(column[other])})' for other in unknown
        )
    return line + '.'


def _against_large(numbers: Numbers, key: str, small: int, large: int) -> list[str]:
    """Each norm at the smallest batch size beside BN and GN at the largest."""
    lines = []
    for reference in ('BN', 'SyncBN', 'GN'):
        goal = numbers.stat(reference, large, key)
        found = {norm: numbers.stat(norm, small, key) for norm in numbers.norms if norm != reference}
        parts = [
            f'{norm} {_signed(value.mean - goal.mean)}{_remark(differ(value, goal))}'
            for norm, value in found.items()
            if value and goal
        ]
        if parts:
            lines.append(f'Batch size {small} minus {reference} at {large} ({per_cent(goal)}): {", ".join(parts)}.')
    return lines


def at_edge(numbers: Numbers) -> list[str]:
    """A sentence on the best learning rates that are the least or the greatest which were tried, if there are such."""
    parts = []
    for total in numbers.totals if numbers.compared else ():
        found = []
        for norm in numbers.norms:
            tried = [lr for lr in numbers.rates(norm, total) if lr is not None]
            if tried and numbers.select(norm, total)[0].get('lr') in (tried[0], tried[-1]):
                found.append(f'{norm} ({numbers.rate(norm, total)})')
        if found:
            parts.append(f'{", ".join(found)} at batch size {total}')
    return (
        [
            'The best learning rate is at the edge of what was tried, so that a better one may lie beyond it, for '
            f'{"; ".join(parts)}.'
        ]
        if parts
        else []
    )


def table_rows(numbers: Numbers, keys: list[str]) -> list[tuple[str, list[tuple[Stat | None, bool]]]]:
    """Norm, and for each metric and batch size the number and whether it is clearly the best."""
    best = {(key, total): numbers.clear_best(total, key) for key in keys for total in numbers.totals}
    return [
        (norm, [(numbers.stat(norm, total, key), best[key, total] == norm) for key in keys for total in numbers.totals])
        for norm in numbers.norms
    ]


def best_of_rates(numbers: Numbers) -> str:
    """Which learning rate the tables are of."""
    return (
        'Each norm and batch size is shown at its best learning rate: of those with the most seeds the one with '
        f'the highest mean {metric_name(numbers.main or "")}.'
    )


def markdown(numbers: Numbers, speed: dict | None = None) -> str:
    """The tables for a document."""
    lines = []
    for key in numbers.shown:
        heads = [f'batch {total}' for total in numbers.totals]
        lines += [f'| {metric_name(key)}, % | {" | ".join(heads)} |', '|---' * (len(heads) + 1) + '|']
        for norm, values in table_rows(numbers, [key]):
            cells = [f'**{per_cent(value)}**' if clear else per_cent(value) for value, clear in values]
            rates = [numbers.rate(norm, total) for total in numbers.totals]
            cells = [f'{cell} ({rate})' if rate else cell for cell, rate in zip(cells, rates)]
            lines.append(f'| {norm} | {" | ".join(cells)} |')
        lines.append('')
    number = len(numbers.seeds)
    lines += [
        f'Mean ± standard deviation over {number} seeds, of the last evaluation; bold: above every other norm by '
        "Welch's t test (95 %)."
        if number > 1
        else 'Of the last evaluation; one seed.',
        '',
    ]
    if numbers.compared and numbers.main:
        lines += [' '.join([best_of_rates(numbers), *at_edge(numbers)]), '']
    for total, rows in speed_rows(speed).items():
        head = f'step, ms | images/s | / {(speed or {}).get("reference")} | peak memory, MiB | window, MiB'
        lines += [f'| batch {total}: norm | {head} |', '|---|---|---|---|---|---|']
        lines += [f'| {norm} | {" | ".join(row)} |' for norm, row in rows.items()]
        lines.append('')
    return '\n'.join(lines)


def speed_rows(speed: dict | None) -> dict[int, dict[str, list[str]]]:
    """Batch size, norm, and the texts: step in ms, images/s, ratio of times to the reference, peak memory and
    window in MiB."""
    tables: dict[int, dict[str, list[str]]] = {}
    for batch, norms in ((speed or {}).get('batch_sizes') or {}).items():
        tables[int(batch)] = {
            norm: [
                f'{1e3 * one["seconds"]:.0f}',
                f'{int(batch) / one["seconds"]:.1f}',
                f'{one["ratio"]:.2f}',
                '–' if one['peak_mib'] is None else f'{one["peak_mib"]:.0f}',
                f'{one["window_mib"]:.1f}',
            ]
            for norm, one in norms.items()
        }
    return tables
