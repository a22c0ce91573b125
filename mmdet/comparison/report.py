"""The page of tools/compare_norms.py: one HTML file that needs nothing else."""

import base64
from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from itertools import chain
from pathlib import Path
from statistics import median
from string import Template

import numpy as np

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

TEMPLATE = Path(__file__).parent / 'templates' / 'page.html'


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
    grid = data.get('grid') or {}
    title = title or Path(grid.get('config', folder.name)).stem
    parts = [
        _head(data, numbers, title),
        _summary(numbers),
        _table(numbers) + _rates(numbers),
        _curves(numbers, grid),
        _speed(data, numbers),
        _examples(numbers, pictures),
        _how(data, numbers),
    ]
    text = Template(TEMPLATE.read_text()).substitute(
        title=escape(f'Norms compared: {title}'),
        body='\n'.join(parts),
        refresh='<meta http-equiv="refresh" content="60">\n' if running else '',
        colours='\n'.join(f'.n{i} {{ --c: var(--n{i}); }}' for i in range(STYLES)),
        tabs='\n'.join(f'#b{i}:checked ~ .t{i} {{ display: block; }}' for i in range(len(numbers.totals))),
    )
    write_atomic(text.encode(), folder / 'index.html')
    write_atomic(markdown(numbers, data.get('speed')).encode(), folder / 'table.md')
    return folder / 'index.html'


def _key(numbers: Numbers, norm: str) -> str:
    return f'{sample(numbers.norms.index(norm))}{escape(norm)}'


def _listed(names: Sequence[str]) -> str:
    return ', '.join(map(escape, names))


def _head(data: dict, numbers: Numbers, title: str) -> str:
    grid, failed = data.get('grid') or {}, data.get('failed') or {}
    names = list(dict.fromkeys([*grid.get('cells', ()), *data['cells'], *failed]))
    missing = [name for name in names if name not in data['cells'] and name not in failed]
    machines = dict.fromkeys(
        f'{m.get("device")}, {m.get("cores")} cores, torch {m.get("torch")}'
        for m in (cell.get('machine') or {} for cell in numbers.cells)
        if m
    )
    lines = [
        f'<h1>Norms compared: {escape(title)}</h1>',
        f'<p>{_listed(numbers.norms) or "No norm yet"}; batch size {_listed(list(map(str, numbers.totals)))}; '
        f'seeds {_listed(list(map(str, numbers.seeds)))}'
        + (
            f'; learning rates {_listed([rate_name(lr).removeprefix("lr ") for lr in numbers.every_rate])}, all of '
            'them for the first seed only'
            if len(numbers.every_rate) > 1
            else ''
        )
        + (f'; norm exchanged in {_listed(grid["places"])}' if grid.get('places') else '')
        + '.</p>',
    ]
    times = [cell['finished'] for cell in numbers.cells if cell.get('finished')]
    when = f'First training finished {min(times)}, last {max(times)}; page' if times else 'Page'
    lines.append(
        f'<p class="note">{when} made {datetime.now().strftime("%Y-%m-%d %H:%M")}. '
        + (f'Trained on: {_listed(list(machines))}.' if machines else '')
        + '</p>'
    )
    lines.append(
        f'<p>{len(names)} trainings: {len(data["cells"])} finished, {len(failed)} failed, {len(missing)} not '
        'yet run to the end.</p>'
    )
    if failed:
        lines.append(
            '<ul class="bad">'
            + ''.join(f'<li>{escape(name)}: {escape(reason)}</li>' for name, reason in failed.items())
            + '</ul>'
        )
    if missing:
        lines.append(f'<details><summary>Not finished</summary><p>{_listed(missing)}</p></details>')
    return '\n'.join(lines)


def _summary(numbers: Numbers) -> str:
    items = ''.join(f'<li>{escape(line)}</li>' for line in summary(numbers))
    text = (
        'AP in per cent, mean ± standard deviation over seeds, of the last evaluation. "Clearly": the means differ '
        "by Welch's t test at 95 %; each pair is tested by itself, so that among many pairs a few will differ by "
        'chance.'
    )
    if len(numbers.totals) > 1:
        text += (
            ' Trainings that are as many epochs long make more steps with smaller batches; compare norms within a '
            'batch size first.'
        )
    return f'<h2>What the numbers say</h2><ul>{items}</ul><p class="note">{text}</p>'


def _grouped_table(
    numbers: Numbers, groups: Sequence[tuple[str, Sequence[str]]], second: str, rows: dict[str, list[tuple[str, str]]]
) -> str:
    """A table with a row for each norm, whose cells are HTML and attributes, under two lines of headings."""
    starts = {0}
    for _, heads in groups:
        starts.add(max(starts) + len(heads))

    def mark(index: int, attributes: str = '') -> str:
        return f' class="first" {attributes}'.rstrip() if index in starts else f' {attributes}'.rstrip()

    head = ''.join(f'<th colspan="{len(heads)}" class="first">{escape(title)}</th>' for title, heads in groups)
    names = [name for _, heads in groups for name in heads]
    under = ''.join(f'<th{mark(i)}>{escape(name)}</th>' for i, name in enumerate(names))
    body = ''.join(
        f'<tr><th scope="row">{_key(numbers, norm)}</th>'
        + ''.join(f'<td{mark(i, attributes)}>{text}</td>' for i, (text, attributes) in enumerate(cells))
        + '</tr>'
        for norm, cells in rows.items()
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><th class="corner">norm</th>{head}</tr><tr>'
        f'<th class="corner note">{second}</th>{under}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _value(numbers: Numbers, trained: Sequence[dict], key: str, bold: bool) -> tuple[str, str]:
    """A table's cell, as HTML and attributes: mean over the trainings of several seeds."""
    value = over_seeds(trained, key)
    seeds = '; '.join(
        f'seed {cell["seed"]}: {100 * cell["metrics"][key]:.1f}' for cell in trained if key in cell['metrics']
    )
    number, plus, spread = per_cent(value).partition(' ± ')
    fewer = f' <small>({value.n})</small>' if value and value.n < len(numbers.seeds) else ''
    text = number + (f' <small>± {spread}</small>' if plus else '') + fewer
    return f'<b>{text}</b>' if bold else text, f'title="{escape(seeds)}"'


def _ap_table(numbers: Numbers, keys: list[str]) -> str:
    places = [(key, total) for key in keys for total in numbers.totals]
    rows = {}
    for norm, values in table_rows(numbers, keys):
        cells = []
        for (key, total), (_, best) in zip(places, values):
            text, title = _value(numbers, numbers.select(norm, total), key, best)
            rate = numbers.rate(norm, total)
            cells.append((text + (f'<br><small>{escape(rate)}</small>' if rate else ''), title))
        rows[norm] = cells
    return _grouped_table(
        numbers, [(metric_name(key), list(map(str, numbers.totals))) for key in keys], 'batch size', rows
    )


def _table(numbers: Numbers) -> str:
    if not numbers.keys:
        return ''
    rest = [key for key in numbers.keys if key not in numbers.shown]
    more = f'<details><summary>All metrics</summary>{_ap_table(numbers, rest)}</details>' if rest else ''
    kinds = dict.fromkeys(key.partition('_mAP')[0] for key in numbers.shown)
    tables = ''.join(
        _ap_table(numbers, [key for key in numbers.shown if key.partition('_mAP')[0] == kind]) for kind in kinds
    )
    return (
        '<h2>AP by norm and batch size</h2>'
        + tables
        + '<p class="note">Shaded: clearly above every other norm of this batch size. In brackets: seeds, where '
        'fewer are finished. Each number names its seeds when pointed at.'
        + (f' {escape(best_of_rates(numbers))}' if numbers.compared else '')
        + '</p>'
        + more
    )


def _rates(numbers: Numbers) -> str:
    key = numbers.main
    if not numbers.compared or key is None:
        return ''
    groups = []
    curves: dict[int, list[Curve]] = {total: [] for total in numbers.totals}
    rows: dict[str, list[tuple[str, str]]] = {norm: [] for norm in numbers.norms}
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
    low, high = bounds([curve for each in curves.values() for curve in each])
    margin = (high - low) / 20
    plots = '\n'.join(
        plot(
            f'{metric_name(key)}, %, batch size {total}',
            each,
            'learning rate',
            (low - margin, high + margin),
            log_ticks=[lr for lr in numbers.every_rate if lr is not None],
        )
        for total, each in curves.items()
    )
    return (
        f'<h2>AP by learning rate</h2>{_grouped_table(numbers, groups, metric_name(key) + ", %", rows)}'
        '<p class="note">Shaded: the rate at which the other tables, the curves and the detections show the norm. '
        'The first seed is trained at all rates, the others at the best of these; where the rate is chosen by the '
        'same seed, its AP is a little favoured. –: failed or not trained. The learning rates are those of the '
        'configs, before they are scaled by the batch size.</p>'
        f'{_legend(numbers)}<div class="plots">{plots}</div>'
    )


def _legend(numbers: Numbers, markers: bool = True) -> str:
    return (
        '<p class="legend">'
        + ''.join(f'<span>{sample(i, markers)}{escape(norm)}</span>' for i, norm in enumerate(numbers.norms))
        + '</p>'
    )


def _resampled(runs: Sequence[Sequence], parts: int = 60) -> list[list[tuple[float, float]]]:
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


def _small_multiples(numbers: Numbers, name: str, runs: Callable[[list], list], x_label: str, markers: bool) -> str:
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
    y_range = bounds([curve for each in curves.values() for curve in each], drop=0 if markers else 0.03)
    if markers:
        y_range = (min(0.0, y_range[0]), y_range[1] * 1.03)
    return (
        '<div class="plots">'
        + '\n'.join(
            plot(f'{name}, batch size {total}', each, x_label, y_range, markers) for total, each in curves.items()
        )
        + '</div>'
    )


def _curves(numbers: Numbers, grid: dict) -> str:
    if not numbers.keys:
        return ''
    units = {cell.get('unit', 'epoch') for cell in numbers.cells}
    plots = []
    for key in [key for key in numbers.shown if key.endswith('_mAP')] or numbers.shown[:1]:
        plots.append(
            _small_multiples(
                numbers,
                f'{metric_name(key)}, %',
                lambda cells, key=key: [
                    [(point['step'], 100 * point[key]) for point in cell['curve'] if key in point] for cell in cells
                ],
                '/'.join(sorted(units)),
                True,
            )
        )
    loss = _small_multiples(
        numbers, 'loss', lambda cells: _resampled([cell['losses'] for cell in cells]), 'iteration', False
    )
    return (
        '<h2>Curves</h2>' + _legend(numbers) + ''.join(plots) + '<p class="note">Line: mean over seeds; band: '
        'lowest to highest seed.</p><h3>Training loss</h3>'
        + _legend(numbers, False)
        + loss
        + '<p class="note">The highest 3 % of the values lie outside.</p>'
    )


def _speed(data: dict, numbers: Numbers) -> str:
    speed = data.get('speed')
    if not numbers.cells and not speed:
        return ''
    parts = ['<h2>Speed and memory</h2>']
    if speed:
        tables = speed_rows(speed)
        heads = ['images/s', f'/ {speed["reference"]}', 'peak MiB', 'window MiB']
        parts.append(
            _grouped_table(
                numbers,
                [(f'batch {batch}', heads) for batch in tables],
                '',
                {
                    norm: [(text, '') for rows in tables.values() for text in rows.get(norm, ['–'] * 5)[1:]]
                    for norm in numbers.norms
                },
            )
        )
        parts.append(
            f'<p class="note">/ {escape(speed["reference"])}: time of a training step, as a ratio. '
            f'{escape(speed["note"])}</p>'
        )
    else:
        parts.append(
            '<p>Not yet measured in turns (done at the end of the grid, or with <code>--speed-only</code>).</p>'
        )
    logged = {
        norm: [(text, '') for total in numbers.totals for text in _logged(numbers.select(norm, total))]
        for norm in numbers.norms
    }
    asked = data.get('grid') or {}
    side = f'{asked["jobs"]} trainings ran side by side. ' if asked.get('jobs', 1) > 1 else ''
    parts.append(
        '<details><summary>As the trainings logged it</summary>'
        + _grouped_table(numbers, [(f'batch {total}', ['images/s', 'MiB']) for total in numbers.totals], '', logged)
        + '<p class="note">Median of the seeds\' images/s; most memory of the GPU, or of the process on the CPU. '
        + side
        + 'What else the machine did is in these numbers.</p></details>'
    )
    return ''.join(parts)


def _logged(cells: list[dict]) -> list[str]:
    rates = [cell['images_per_second'] for cell in cells if cell.get('images_per_second')]
    memory = [cell.get('gpu_memory_mib') or cell.get('memory_mib') or 0 for cell in cells]
    return [f'{median(rates):.1f}' if rates else '–', str(max(memory, default=0) or '–')]


def _examples(numbers: Numbers, pictures: Pictures | None) -> str:
    parts = ['<h2>Detections</h2>']
    if pictures is None or pictures.problem:
        reason = pictures.problem if pictures else 'The example images were not asked for.'
        return ''.join([*parts, f'<p>{escape(reason)}</p>'])
    keys = ''.join(
        f'<span><svg class="key" viewBox="0 0 34 14"><path class="{kind}" d="M2 2h30v10h-30z"/></svg>{text}</span>'
        for kind, text in (
            ('ok', 'right: IoU of 0.5 or more with an object of its class'),
            ('ko', 'wrong, or found twice'),
            ('no', 'missed'),
        )
    )
    parts += [
        f'<p class="note">Validation images; detections with a score of 0.3 or more, of the first seed. Each '
        f'names its class and score when pointed at.</p><p class="legend">{keys}</p>',
        pictures.definitions(),
        '<div class="tabs">',
    ]
    for i, total in enumerate(numbers.totals):
        parts.append(
            f'<input type="radio" name="batch" id="b{i}"{" checked" if i == 0 else ""}>'
            f'<label for="b{i}">batch size {total}</label>'
        )
    truths = {image: pictures.truth(image) for image in pictures.images}
    for i, total in enumerate(numbers.totals):
        cells = {norm: first_with_detections(numbers.select(norm, total)) for norm in numbers.norms}
        head = '<th class="gt">ground truth</th>' + ''.join(f'<th>{escape(norm)}</th>' for norm in numbers.norms)
        rows = []
        for image in pictures.images:
            row = f'<td class="gt">{truths[image]}</td>'
            for norm, cell in cells.items():
                if cell is None:
                    row += f'<td>{"not finished" if numbers.asked(norm, total) else "–"}</td>'
                    continue
                row += f'<td>{pictures.found(image, cell["detections"].get(image, []), norm)}</td>'
            rows.append(f'<tr>{row}</tr>')
        parts.append(
            f'<div class="tab t{i}"><h3>Batch size {total}</h3><div class="scroll" tabindex="0">'
            f'<table class="pictures"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
            '</div></div>'
        )
    return ''.join([*parts, '</div>'])


def _how(data: dict, numbers: Numbers) -> str:
    grid = data.get('grid') or {}
    parts = ['<h2>How it was made</h2>']
    if grid.get('command'):
        parts.append(f'<pre><code>{escape(grid["command"])}</code></pre>')
    if grid.get('versions'):
        parts.append(
            '<p class="note">'
            + escape(', '.join(f'{name} {version}' for name, version in grid['versions'].items()))
            + '.</p>'
        )
    norms = {cell['norm']: cell.get('norm_cfg') for cell in numbers.cells}
    norms.update(grid.get('norms') or {})
    rows = ''.join(
        f'<tr><th scope="row">{escape(norm)}</th><td style="text-align:left"><code>'
        f'{escape(_call(norms[norm]))}</code></td></tr>'
        for norm in numbers.norms
    )
    parts.append(f'<h3>norm_cfg</h3><div class="scroll" tabindex="0"><table><tbody>{rows}</tbody></table></div>')
    parts.append('<h3>Configs and commands</h3>')
    for norm in numbers.norms:
        inner = [
            _cell(numbers.select(norm, total), list(chain(*rates.values())))
            for total in numbers.totals
            for rates in [numbers.rates(norm, total)]
            if rates
        ]
        if inner:
            parts.append(f'<details><summary>{escape(norm)}</summary>{"".join(inner)}</details>')
    return ''.join(parts)


def _call(cfg: dict | None) -> str:
    return 'None' if cfg is None else f'dict({", ".join(f"{key}={value!r}" for key, value in cfg.items())})'


def _cell(shown: list[dict], cells: list[dict]) -> str:
    """Commands of one norm and batch size, and the config of the first seed of those that are shown."""
    first, which, rate = shown[0], ' (the other seeds', ''
    if len({cell.get('lr') for cell in cells}) > 1:
        which = f' and {rate_name(first.get("lr"))} (the other seeds and rates'
        rate = ', <code>optim_wrapper.optimizer.lr</code>'
    commands = '\n'.join(cell['command'] for cell in cells)
    name = f'{first["norm"]}_b{first["batch_size"]}_s{first["seed"]}.py'
    uri = 'data:text/x-python;base64,' + base64.b64encode(first['config'].encode()).decode()
    return (
        f'<details><summary>batch size {total_batch(first)}</summary><pre><code>{escape(commands)}</code></pre>'
        f'<p>The file, of seed {first["seed"]}{which} differ in <code>randomness.seed</code>{rate} and '
        f'<code>outfile_prefix</code>):</p><pre><code>{escape(first["cell_config"])}</code></pre>'
        f'<details><summary>merged with its bases</summary><p><a download="{escape(name)}" href="{uri}">'
        f'{escape(name)}</a></p><pre><code>{escape(first["config"])}</code></pre></details></details>'
    )
