"""Curves of several runs in one plot."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmdet.io.atomic import write_atomic

from .logs import Curve

#: seaborn's names of styles, which scripts for mmdetection use
SEABORN = ('dark', 'darkgrid', 'white', 'whitegrid', 'ticks')
LINES = ('-', '--', ':', '-.')
MARKERS = ('o', 's', '^', 'D')


def run_names(paths: Sequence[str | Path]) -> list[str]:
    """Short names that tell runs apart: the last folder of each path that is not named by a tool or a time, and as many
    before it as it takes; the second of the same path gets a number."""
    parts = []
    for path in paths:
        part = Path(path).absolute().parts
        while len(part) > 2 and (part[-1] in ('scalars.json', 'vis_data', 'run') or part[-1][:8].isdigit()):
            part = part[:-1]
        parts.append(part)
    lengths = [1] * len(parts)
    while True:
        names = ['/'.join(part[-length:]) for part, length in zip(parts, lengths)]
        longer = [
            i
            for i, name in enumerate(names)
            if lengths[i] < len(parts[i]) - 1
            and any(name == other and parts[i] != part for other, part in zip(names, parts))
        ]
        if not longer:
            seen = [names[:i].count(name) for i, name in enumerate(names)]
            return [f'{name} ({before + 1})' if before else name for name, before in zip(names, seen)]
        for i in longer:
            lengths[i] += 1


def style_name(style: str) -> str:
    """Matplotlib's name of a style, also for seaborn's short names."""
    return f'seaborn-v0_8-{style}' if style in SEABORN else style


def plot_curves(axes: Axes, curves: Sequence[Curve], labels: Sequence[str], runs: Sequence[int], x_label: str) -> None:
    """Draw curves, with a colour for each run and a line style for each key; of one run with a colour for each key.

    Args:
        axes: to draw in.
        curves: with at least one point each.
        labels: of the curves, for the legend.
        runs: the number of the run that a curve belongs to, from 0.
        x_label: what is counted along the x axis.
    """
    colours = rcParams['axes.prop_cycle'].by_key()['color']
    keys = list(dict.fromkeys(curve.key for curve in curves))
    several = len(set(runs)) > 1
    for curve, label, run in zip(curves, labels, runs):
        key = keys.index(curve.key)
        few = len(curve.x) <= 40
        axes.plot(
            curve.x,
            curve.y,
            label=label,
            color=colours[(run if several else key) % len(colours)],
            linestyle=LINES[key % len(LINES)] if several else '-',
            linewidth=1.6,
            marker=MARKERS[key % len(MARKERS)] if few else None,
            markersize=4,
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel(', '.join(key.rpartition('/')[2] for key in keys) if len(keys) <= 2 else 'value')
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(True, alpha=0.4)


def add_legend(axes: Axes) -> None:
    """A legend in the axes, or, where it would cover the curves, below them, the figure (of constrained layout) made
    higher for it."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels))
    if len(labels) <= 6 and longest <= 40:
        axes.legend(frameon=True, framealpha=0.8, fontsize=9)
        return
    columns = max(1, min(len(labels), 100 // (longest + 8)))
    rows = -(-len(labels) // columns)
    axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.13), ncols=columns, fontsize=8, frameon=False)
    figure = axes.get_figure()
    figure.set_figheight(max(figure.get_figheight(), 4.8 + 0.17 * rows))


def save_figure(figure: Figure, path: str | Path, dpi: int = 110) -> None:
    """Write a figure whole or not at all; the file's ending names the format.

    Raises:
        ValueError: matplotlib does not write such files.
    """
    known = figure.canvas.get_supported_filetypes()
    kind = os.path.splitext(path)[1][1:].lower()
    if kind not in known:
        raise ValueError(f"{path}: the file's name must end with one of {', '.join('.' + name for name in known)}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi)
    write_atomic(buffer.getvalue(), path)
