"""Train a detector with several norms, batch sizes and seeds, and show what came of it on one page.

    python tools/compare_norms.py CONFIG --norms BN GN CBN SyncCBN --batch-sizes 1 2 4 --seeds 0 1 2 [--resume]

Each combination is a training of its own, started with the command that the page shows. Finished ones are kept in
WORK_DIR/results.json as they come; with --resume they are not run again, and one that was interrupted goes on from its
last checkpoint. WORK_DIR/index.html is the page, made anew after each; it needs no network and no other file.

With --learning-rates the first seed is trained at all of them, the other seeds only at the rate that was best for their
norm and batch size, at which the page shows each.
"""

import argparse
import math
import shlex
import sys
from pathlib import Path

from mmengine.config import DictAction

from mmdet.comparison.grid import PLACES
from mmdet.comparison.pictures import Pictures, example_ids
from mmdet.comparison.report import write_report
from mmdet.comparison.results import show
from mmdet.comparison.runner import Grid
from mmdet.config import load_config
from mmdet.run.ending import run_main

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file; its norm_cfgs, if it has one, gives norms names')
    parser.add_argument(
        '--norms',
        nargs='+',
        default=['BN', 'GN', 'CBN', 'CBN+'],
        metavar='NORM',
        help="a type, a key of the config's norm_cfgs, 'none', or NAME=dict(type='CBN', buffer_num=7)",
    )
    parser.add_argument('--batch-sizes', nargs='+', type=int, default=[1, 2, 4], metavar='N', help='images a process')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], metavar='N')
    parser.add_argument(
        '--learning-rates',
        nargs='+',
        type=float,
        metavar='LR',
        help='the first seed is trained at all of them, the others at the best one of each norm and '
        "batch size; the speed is measured at the first (default: the config's own)",
    )
    parser.add_argument(
        '--where',
        nargs='+',
        choices=list(PLACES),
        metavar='PART',
        help=f'of {", ".join(PLACES)} (default: all, but a backbone with frozen norms)',
    )
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/compare_NAME')
    parser.add_argument('--resume', action='store_true', help='keep what is finished, go on with what is not')
    parser.add_argument('--jobs', type=int, default=1, help='trainings at a time; they share cores or GPUs')
    parser.add_argument('--processes', type=int, default=1, help='processes (GPUs) of each training')
    parser.add_argument(
        '--no-scale-lr',
        action='store_true',
        help="one learning rate for all batch sizes, also where the config's auto_scale_lr has a base_batch_size",
    )
    parser.add_argument('--remove-checkpoints', action='store_true', help="of each training once it's finished")
    parser.add_argument(
        '--speed-seconds',
        type=float,
        default=300,
        metavar='S',
        help='about how long the steps of the norms are timed in turns after the trainings; 0: not at '
        'all (default: 300)',
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument('--speed-only', action='store_true', help='train nothing, time the steps (again)')
    only.add_argument('--report-only', action='store_true', help='make the page from what is finished')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='settings for all of them'
    )
    args = parser.parse_args(argv)
    for name, values, least in (
        ('--batch-sizes', args.batch_sizes, 1),
        ('--seeds', args.seeds, 0),
        ('--jobs', [args.jobs], 1),
        ('--processes', [args.processes], 1),
    ):
        if min(values) < least or len(set(values)) < len(values):
            parser.error(f'{name} {" ".join(map(str, values))}: must be different integers of {least} or more')
    rates = [f'{rate:g}' for rate in args.learning_rates or ()]  # as in names of files
    if not all(0 < rate < math.inf for rate in args.learning_rates or ()) or len(set(rates)) < len(rates):
        parser.error(f'--learning-rates {" ".join(rates)}: must be different numbers of more than 0')
    if not args.speed_seconds >= 0 or (args.speed_only and not args.speed_seconds):
        parser.error(f'--speed-seconds {args.speed_seconds:g}: must be 0 or more, and more than 0 for --speed-only')
    if args.work_dir is None:
        args.work_dir = Path('work_dirs') / f'compare_{Path(args.config).stem}'
    return args


def report_only(args):
    path = args.work_dir / 'results.json'
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file; --report-only shows what was trained before')
    config = load_config(args.config, args.cfg_options)
    if 'val_dataloader' not in config:
        raise KeyError(f"config {args.config}: has no key 'val_dataloader', whose images the page shows")

    def write(data):
        pictures = Pictures(config.val_dataloader.dataset, example_ids(list(data['cells'].values())))
        return write_report(data, args.work_dir, pictures, Path(args.config).stem)

    print(show(path, write))


def main(argv=None):
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    if args.report_only:
        report_only(args)
        return
    known = args.work_dir / 'results.json'
    if known.is_file() and not (args.resume or args.speed_only):
        raise ValueError(f'{known} is there already: give --resume to go on with it, or another --work-dir')
    command = ['python', 'tools/compare_norms.py', *argv]
    grid = Grid(args, command, ROOT)
    if args.speed_only:
        grid.measure_only()
        return
    try:
        grid.run()
    except KeyboardInterrupt:
        words = command + ([] if args.resume else ['--resume'])
        print(f'\nstopped; to go on:\n{shlex.join(words)}', file=sys.stderr, flush=True)
        raise
    failed = [cell.name for cell in grid.cells if cell.name in grid.results.data['failed']]
    if failed:
        raise RuntimeError(
            f'{len(failed)} of {len(grid.cells)} trainings failed: {", ".join(failed)}. --resume tries them again'
        )


if __name__ == '__main__':
    sys.exit(run_main(main))
