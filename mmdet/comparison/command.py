"""Train a detector with several norms, batch sizes and seeds, and show what came of it on one page.

    mmdet compare CONFIG --norms BN GN CBN SyncCBN --batch-sizes 1 2 4 --seeds 0 1 2 [--resume]

Each combination is a training of its own, started with the command that the page shows. Finished ones are kept in
WORK_DIR/results.json as they come; with --resume they are not run again, and one that was interrupted goes on from its
last checkpoint. WORK_DIR/index.html is the page, made anew after each; it needs no network and no other file.

With --cfg-options visualizer.vis_backends=WandbVisBackend (or MLflowVisBackend) each training has a run there, and the
comparison one with its tables, of the trainings and of the norms, and the page.

With --learning-rates the first seed is trained at all of them, the other seeds only at the rate that was best for their
norm and batch size, at which the page shows each.
"""

import argparse
import shlex
import sys
from dataclasses import fields
from pathlib import Path

from mmdet.comparison.pictures import Pictures, example_ids
from mmdet.comparison.report import write_report
from mmdet.comparison.results import Results, show
from mmdet.comparison.runner import Grid
from mmdet.comparison.settings import PLACES, Settings
from mmdet.comparison.tracking import find_trackers, send_tables
from mmdet.config import load_config
from mmdet.options import add_config, make_parser
from mmdet.run.launch import command_words


def parse_args(argv: list[str] | None = None) -> tuple[Settings, argparse.Namespace]:
    """What is compared, and what is to be done of it: ``resume``, ``speed_only``, ``report_only``."""
    parser = make_parser(__doc__)
    add_config(parser, 'its norm_cfgs, if it has one, gives norms names')
    parser.add_argument(
        '--norms',
        nargs='+',
        default=Settings('').norms,
        metavar='NORM',
        help="a type, a key of the config's norm_cfgs, 'none', or NAME=dict(type='CBN', buffer_num=7)",
    )
    parser.add_argument(
        '--batch-sizes', nargs='+', type=int, default=Settings('').batch_sizes, metavar='N', help='images a process'
    )
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
        dest='scale_lr',
        action='store_false',
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
    args = parser.parse_args(argv)
    words = vars(args)
    try:
        settings = Settings(**{one.name: words.pop(one.name) for one in fields(Settings)})
    except ValueError as error:
        parser.error(str(error))
    if args.speed_only and not settings.speed_seconds:
        parser.error('--speed-only: --speed-seconds must be more than 0')
    return settings, args


def report_only(settings: Settings) -> None:
    if not settings.results.is_file():
        raise FileNotFoundError(f'{settings.results}: no such file; --report-only shows what was trained before')
    config = load_config(settings.config, settings.cfg_options, str(settings.folder))
    trackers = find_trackers(config)
    if 'val_dataloader' not in config:
        raise KeyError(f"config {settings.config}: has no key 'val_dataloader', whose images the page shows")

    def write(data: dict) -> Path:
        pictures = Pictures(config.val_dataloader.dataset, example_ids(list(data['cells'].values())))
        return write_report(data, settings.folder, pictures, Path(settings.config).stem)

    print(show(settings.results, write))
    send_tables(Results(settings.results), settings.folder, trackers)


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    settings, args = parse_args(argv)
    if args.report_only:
        report_only(settings)
        return
    known = settings.results
    if known.is_file() and not (args.resume or args.speed_only):
        raise ValueError(f'{known} is there already: give --resume to go on with it, or another --work-dir')
    command = [*command_words('compare_norms.py', 'compare'), *argv]
    grid = Grid(settings, command)
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
