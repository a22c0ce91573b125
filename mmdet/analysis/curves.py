"""Curves of losses, accuracies and AP of one or several runs, and how long training took.

    mmdet analyze logs plot_curve LOG... --keys loss_cls bbox_mAP --out curves.png
    mmdet analyze logs cal_train_time LOG...

LOG is a work dir, whose sessions are put together where the run was resumed, a scalars.json, or mmengine's TIME.json.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmdet.analysis.logs import Curve, counts_epochs, epoch_times, get_curve, read_log, time_summary
from mmdet.io.atomic import write_atomic
from mmdet.options import make_parser, whole
from mmdet.visualization.fonts import fonts_for

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
    with fonts_for(figure):
        figure.savefig(buffer, format=kind, dpi=dpi)
    write_atomic(buffer.getvalue(), path)


# -- the command --------------------------------------------------------------------------------------------------


def parse_args(argv=None):
    parser = make_parser(__doc__)
    tasks = parser.add_subparsers(dest='task', required=True)
    curve = tasks.add_parser('plot_curve', help='plot keys of the logs')
    curve.add_argument('json_logs', nargs='+', metavar='LOG', help='work dirs or files of JSON lines')
    curve.add_argument(
        '--keys',
        nargs='+',
        default=['bbox_mAP'],
        help='what to plot, of training (loss, loss_cls, lr, time, ...) over iterations, of evaluation '
        '(bbox_mAP, coco/segm_mAP_50, ...) over epochs (default: bbox_mAP)',
    )
    curve.add_argument('--start-epoch', type=whole(1), default=1, help='leave out earlier epochs (default: 1)')
    curve.add_argument(
        '--eval-interval',
        type=whole(1),
        default=1,
        help='of the evaluations only those at multiples of so many epochs (default: 1)',
    )
    curve.add_argument('--title', help="the plot's title")
    curve.add_argument('--legend', nargs='+', help='name of each curve: the keys of the first log, of the second, ...')
    curve.add_argument('--backend', help="matplotlib's backend for showing the plot, for instance TkAgg")
    curve.add_argument(
        '--style', default='whitegrid', help=f"{', '.join(SEABORN)}, or a style of matplotlib's (default: whitegrid)"
    )
    curve.add_argument('--out', help='write the plot to this file (.png, .pdf, .svg, ...) instead of showing it')
    time = tasks.add_parser('cal_train_time', help='seconds an iteration')
    time.add_argument('json_logs', nargs='+', metavar='LOG', help='work dirs or files of JSON lines')
    time.add_argument(
        '--include-outliers',
        action='store_true',
        help='count also the first record of each epoch, in which the workers start',
    )
    args = parser.parse_args(argv)
    if args.task == 'plot_curve':
        number = len(args.json_logs) * len(args.keys)
        if args.legend and len(args.legend) != number:
            parser.error(
                f'--legend: {len(args.legend)} names for {number} curves ({len(args.json_logs)} logs with '
                f'{len(args.keys)} keys each)'
            )
    return args


def plot_curve(args):
    style = style_name(args.style)
    if style not in plt.style.available + ['default']:
        raise ValueError(f'--style {args.style}: known are {", ".join([*SEABORN, "default", *plt.style.available])}')
    logs = [read_log(path) for path in args.json_logs]
    curves = []
    for path, log in zip(args.json_logs, logs):
        for key in args.keys:
            try:
                curve = get_curve(log, key, args.start_epoch, args.eval_interval)
            except KeyError as error:
                raise KeyError(f'{path}: --keys: {error.args[0]}') from None
            if not curve.x:
                raise ValueError(
                    f'{path}: --keys {key}: no value with --start-epoch {args.start_epoch} '
                    f'--eval-interval {args.eval_interval}'
                )
            curves.append(curve)
    names = run_names(args.json_logs)
    if not args.legend:
        args.legend = [
            key if len(logs) == 1 else name if len(args.keys) == 1 else f'{name} {key}'
            for name in names
            for key in args.keys
        ]
    runs = [run for run in range(len(logs)) for _ in args.keys]
    kinds = sorted({curve.kind for curve in curves})
    try:
        plt.switch_backend(args.backend or ('Agg' if args.out else matplotlib.get_backend()))
    except (ImportError, ValueError) as error:
        raise ValueError(f'--backend {args.backend}: {error}') from None
    with plt.style.context(style):
        figure, axes = plt.subplots(1, len(kinds), figsize=(7.5 * len(kinds), 4.8), squeeze=False, layout='constrained')
        for kind, axis in zip(kinds, axes[0]):
            chosen = [i for i, curve in enumerate(curves) if curve.kind == kind]
            epochs = kind == 'val' and all(map(counts_epochs, logs))
            plot_curves(
                axis,
                [curves[i] for i in chosen],
                [args.legend[i] for i in chosen],
                [runs[i] for i in chosen],
                'epoch' if epochs else 'iteration',
            )
            add_legend(axis)
        title = args.title or (names[0] if len(logs) == 1 else None)
        if title:
            figure.suptitle(title)
        if args.out:
            save_figure(figure, args.out)
            print(f'written: {args.out}')
        else:
            plt.show()
        plt.close(figure)


def cal_train_time(args):
    for path in args.json_logs:
        epochs = epoch_times(read_log(path), args.include_outliers)
        if not epochs:
            raise ValueError(f"{path}: no training record with a 'time'")
        found = time_summary(epochs)
        print(
            f'-----Analyze train time of {path}-----\n'
            f'slowest epoch {found["slowest"][0]}, average time is {found["slowest"][1]:.4f} s/iter\n'
            f'fastest epoch {found["fastest"][0]}, average time is {found["fastest"][1]:.4f} s/iter\n'
            f'time std over epochs is {found["std"]:.4f}\n'
            f'average iter time: {found["mean"]:.4f} s/iter\n'
        )


def main(argv=None):
    args = parse_args(argv)
    if args.task == 'plot_curve':
        plot_curve(args)
    else:
        cal_train_time(args)
