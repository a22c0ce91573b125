"""The page of a comparison: one HTML file that needs nothing else, made of templates/page.html."""

import base64
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmdet.comparison.numbers import (
    Numbers,
    best_of_rates,
    markdown,
    metric_name,
    over_seeds,
    per_cent,
    rate_name,
    speed_rows,
    summary,
    table_rows,
    total_batch,
)
from mmdet.comparison.pictures import Pictures, first_with_detections
from mmdet.comparison.plots import STYLES, Curve, bounds, merge, plot, sample
from mmdet.io.atomic import write_atomic

# What is in the results may be a stranger's: autoescape
_PAGES = Environment(
    loader=PackageLoader('mmdet.comparison'),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


class Cell(NamedTuple):
    """A cell of a table; texts, '' for what is left out."""

    mean: str
    spread: str = ''
    seeds: str = ''  # how many, where they are fewer than the others'
    best: bool = False
    title: str = ''
    rate: str = ''


class Table(NamedTuple):
    """A row of cells for each norm, the columns in groups."""

    groups: list[tuple[str, list[str]]]  # title, headings
    second: str  # what the headings are
    rows: dict[str, list[Cell]]

    @property
    def starts(self) -> set[int]:
        """Index of each group's first column."""
        return {sum(len(heads) for _, heads in self.groups[:i]) for i in range(len(self.groups))}


def write_report(
    data: dict, folder: Path, pictures: Pictures | None = None, title: str = '', running: bool = False
) -> Path:
    """Write ``index.html`` and ``table.md``.

    Args:
        data: contents of ``results.json``.
        folder: where to.
        pictures: the example images; without them the page says that there are none.
        title: what was compared; by default the name of the config.
        running: the page loads itself anew every minute.

    Returns:
        The page's path.
    """
    numbers = Numbers(data)
    grid, failed, speed = data.get('grid') or {}, data.get('failed') or {}, data.get('speed')
    names = list(dict.fromkeys([*grid.get('cells', ()), *data['cells'], *failed]))
    machines = [cell.get('machine') or {} for cell in numbers.cells]
    shows = pictures is not None and not pictures.problem
    text = _PAGES.get_template('page.html').render(
        title=title or Path(grid.get('config', folder.name)).stem,
        running=running,
        styles=STYLES,
        numbers=numbers,
        grid=dict(dict(places=(), jobs=1, command='', versions={}), **grid),
        failed=failed,
        names=names,
        finished=len(data['cells']),
        missing=[name for name in names if name not in data['cells'] and name not in failed],
        rates=[rate_name(lr).removeprefix('lr ') for lr in numbers.every_rate],
        times=[cell['finished'] for cell in numbers.cells if cell.get('finished')],
        now=datetime.now().strftime('%Y-%m-%d %H:%M'),
        machines=list(
            dict.fromkeys(f'{m.get("device")}, {m.get("cores")} cores, torch {m.get("torch")}' for m in machines if m)
        ),
        sentences=summary(numbers),
        speed=speed,
        pictures=pictures if shows else None,
        no_pictures=pictures.problem if pictures else 'The example images were not asked for.',
        sample=sample,
        first_with_detections=first_with_detections,
        norm_cfgs=_norm_cfgs(numbers, grid),
        how=_how(numbers),
        **_ap(numbers),
        **_rates(numbers),
        **_curves(numbers),
        **_speed(numbers, speed),
    )
    write_atomic(text.encode(), folder / 'index.html')
    write_atomic(markdown(numbers, speed).encode(), folder / 'table.md')
    return folder / 'index.html'


def _value(numbers: Numbers, trained: Sequence[dict], key: str, best: bool, rate: str = '') -> Cell:
    """Mean of a metric over the trainings of several seeds."""
    value = over_seeds(trained, key)
    seeds = '; '.join(
        f'seed {cell["seed"]}: {100 * cell["metrics"][key]:.1f}' for cell in trained if key in cell['metrics']
    )
    mean, _, spread = per_cent(value).partition(' ± ')
    fewer = str(value.n) if value and value.n < len(numbers.seeds) else ''
    return Cell(mean, spread, fewer, best, seeds, rate)


def _ap_table(numbers: Numbers, keys: list[str]) -> Table:
    places = [(key, total) for key in keys for total in numbers.totals]
    rows = {
        norm: [
            _value(numbers, numbers.select(norm, total), key, best, numbers.rate(norm, total))
            for (key, total), (_, best) in zip(places, values)
        ]
        for norm, values in table_rows(numbers, keys)
    }
    return Table([(metric_name(key), list(map(str, numbers.totals))) for key in keys], 'batch size', rows)


def _ap(numbers: Numbers) -> dict[str, Any]:
    kinds = dict.fromkeys(key.partition('_mAP')[0] for key in numbers.shown)
    rest = [key for key in numbers.keys if key not in numbers.shown]
    return dict(
        ap_tables=[
            _ap_table(numbers, [key for key in numbers.shown if key.partition('_mAP')[0] == kind]) for kind in kinds
        ],
        all_metrics=_ap_table(numbers, rest) if rest else None,
        best_of_rates=best_of_rates(numbers) if numbers.compared else '',
    )


def _rates(numbers: Numbers) -> dict[str, Any]:
    key = numbers.main
    if not numbers.compared or key is None:
        return dict(rate_table=None, rate_plots=[])
    groups = []
    curves: dict[int, list[Curve]] = {total: [] for total in numbers.totals}
    rows: dict[str, list[Cell]] = {norm: [] for norm in numbers.norms}
    for total in numbers.totals:
        groups.append((f'batch size {total}', [rate_name(lr) for lr in numbers.every_rate]))
        for style, norm in enumerate(numbers.norms):
            rates, best = numbers.rates(norm, total), numbers.select(norm, total)
            rows[norm] += [
                _value(numbers, rates.get(lr, []), key, lr in rates and rates[lr] == best) for lr in numbers.every_rate
            ]
            points = [
                (lr, 100 * value.mean)
                for lr, cells in rates.items()
                for value in [over_seeds(cells, key)]
                if value and lr is not None
            ]
            curve = merge(style, norm, [points])
            if curve:
                curves[total].append(curve)
    low, high = bounds(list(chain.from_iterable(curves.values())))
    margin = (high - low) / 20
    log_ticks = [lr for lr in numbers.every_rate if lr is not None]
    plots = [
        plot(
            f'{metric_name(key)}, %, batch size {total}',
            each,
            'learning rate',
            (low - margin, high + margin),
            log_ticks=log_ticks,
        )
        for total, each in curves.items()
    ]
    return dict(rate_table=Table(groups, f'{metric_name(key)}, %', rows), rate_plots=plots)


def _resampled(runs: Iterable[Sequence], parts: int = 60) -> list[list[tuple[float, float]]]:
    """Runs at the same iterations, wherever each has logged; means over stretches where they have logged often."""
    runs = [run for run in runs if len(run) > 1]
    if not runs:
        return []
    edges = np.linspace(max(run[0][0] for run in runs), min(run[-1][0] for run in runs), parts)
    result = []
    for run in runs:
        x, y = np.array(run, dtype=float).T
        width = max(1, len(x) // parts)
        smooth = np.convolve(np.pad(y, width // 2, mode='edge'), np.full(width, 1 / width), 'valid')[: len(y)]
        result.append(list(zip(edges.tolist(), np.interp(edges, x, smooth).tolist())))
    return result


def _small_multiples(
    numbers: Numbers, name: str, runs: Callable[[list], list], x_label: str, markers: bool
) -> list[Markup]:
    """One plot for each batch size, all with the same scale."""
    curves = {
        total: [
            curve
            for style, norm in enumerate(numbers.norms)
            for curve in [merge(style, norm, runs(numbers.select(norm, total)))]
            if curve
        ]
        for total in numbers.totals
    }
    # A loss that blows up, or the first steps', would press all others together
    y_range = bounds(list(chain.from_iterable(curves.values())), drop=0 if markers else 0.03)
    if markers:
        y_range = (min(0.0, y_range[0]), y_range[1] * 1.03)
    return [plot(f'{name}, batch size {total}', each, x_label, y_range, markers) for total, each in curves.items()]


def _curves(numbers: Numbers) -> dict[str, Any]:
    if not numbers.keys:
        return dict(curves=[], losses=[])
    unit = '/'.join(sorted({cell.get('unit', 'epoch') for cell in numbers.cells}))

    def values(key: str) -> Callable[[list], list]:
        return lambda cells: [
            [(point['step'], 100 * point[key]) for point in cell['curve'] if key in point] for cell in cells
        ]

    keys = [key for key in numbers.shown if key.endswith('_mAP')] or numbers.shown[:1]
    return dict(
        curves=[_small_multiples(numbers, f'{metric_name(key)}, %', values(key), unit, True) for key in keys],
        losses=_small_multiples(
            numbers, 'loss', lambda cells: _resampled(cell['losses'] for cell in cells), 'iteration', False
        ),
    )


def _speed(numbers: Numbers, speed: dict | None) -> dict[str, Any]:
    logged = Table(
        [(f'batch {total}', ['images/s', 'MiB']) for total in numbers.totals],
        '',
        {
            norm: [Cell(text) for total in numbers.totals for text in _logged(numbers.select(norm, total))]
            for norm in numbers.norms
        },
    )
    if not speed:
        return dict(speed_table=None, logged_table=logged)
    tables = speed_rows(speed)
    heads = ['images/s', f'/ {speed["reference"]}', 'peak MiB', 'window MiB']
    rows = {
        norm: [Cell(text) for found in tables.values() for text in found.get(norm, ['–'] * 5)[1:]]
        for norm in numbers.norms
    }
    return dict(speed_table=Table([(f'batch {batch}', heads) for batch in tables], '', rows), logged_table=logged)


def _logged(cells: list[dict]) -> list[str]:
    rates = [cell['images_per_second'] for cell in cells if cell.get('images_per_second')]
    memory = [cell.get('gpu_memory_mib') or cell.get('memory_mib') or 0 for cell in cells]
    return [f'{median(rates):.1f}' if rates else '–', str(max(memory, default=0) or '–')]


def _norm_cfgs(numbers: Numbers, grid: dict) -> dict[str, str]:
    norms = {cell['norm']: cell.get('norm_cfg') for cell in numbers.cells}
    norms.update(grid.get('norms') or {})
    return {
        norm: 'None' if cfg is None else f'dict({", ".join(f"{key}={value!r}" for key, value in cfg.items())})'
        for norm, cfg in norms.items()
    }


def _how(numbers: Numbers) -> dict[str, list[dict]]:
    """By norm, for each batch size: the commands, and the config of the first seed of those that are shown."""
    how: dict[str, list[dict]] = {}
    for norm in numbers.norms:
        for total in numbers.totals:
            cells = list(chain(*numbers.rates(norm, total).values()))
            if not cells:
                continue
            first = numbers.select(norm, total)[0]
            one_rate = len({cell.get('lr') for cell in cells}) == 1
            how.setdefault(norm, []).append(
                dict(
                    total=total_batch(first),
                    commands=[cell['command'] for cell in cells],
                    cell=first,
                    rate='' if one_rate else rate_name(first.get('lr')),
                    file=f'{first["norm"]}_b{first["batch_size"]}_s{first["seed"]}.py',
                    uri='data:text/x-python;base64,' + base64.b64encode(first['config'].encode()).decode(),
                )
            )
    return how
