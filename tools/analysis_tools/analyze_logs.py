"""Curves of losses, accuracies and AP of one or several runs, and how long training took.

    python tools/analysis_tools/analyze_logs.py plot_curve LOG... --keys loss_cls bbox_mAP --out curves.png
    python tools/analysis_tools/analyze_logs.py cal_train_time LOG...

LOG is a work dir, whose sessions are put together where the run was resumed, a scalars.json, or mmengine's TIME.json.
"""

import argparse
import sys

import matplotlib
from matplotlib import pyplot as plt

from mmdet.analysis.curves import SEABORN, add_legend, plot_curves, run_names, save_figure, style_name
from mmdet.analysis.logs import counts_epochs, epoch_times, get_curve, read_log, time_summary
from mmdet.run.ending import run_main


def positive(text):
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f'{text}: must be a whole number, 1 or more')
    return int(text)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    curve.add_argument('--start-epoch', type=positive, default=1, help='leave out earlier epochs (default: 1)')
    curve.add_argument(
        '--eval-interval',
        type=positive,
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


if __name__ == '__main__':
    sys.exit(run_main(main))
