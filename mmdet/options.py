"""The command line's options that several commands have, each declared once."""

import argparse
from collections.abc import Callable
from typing import Any

from mmengine.config import DictAction


def make_parser(doc: str | None, **kwargs: Any) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring; ``--debug`` is what :func:`~mmdet.run.ending.run_main` looks for."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
    parser.add_argument('--debug', action='store_true', help='after an error show the traceback, too')
    return parser


def add_config(parser: argparse.ArgumentParser, help: str = '', nargs: str | None = None) -> None:
    """``config`` and ``--cfg-options``, for :func:`~mmdet.config.load_config`; nargs='?' where there may be none."""
    about = 'config file, or the name of one of those that come with mmdet'
    parser.add_argument('config', nargs=nargs, help=f'{about}; {help}' if help else about)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings that override the config, for instance train_dataloader.batch_size=1',
    )


def add_work_dir(parser: argparse.ArgumentParser, what: str = 'the log goes') -> None:
    parser.add_argument('--work-dir', help=f'where {what} (default: work_dirs/NAME)')


def add_trust_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='read checkpoints that may run code; only for files whose origin you know',
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--device', help="'cpu', 'cuda:0', ... (default: the first GPU, or else the CPU)")


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """How the processes are started: ``--gpus`` of our own, and what a launcher adds."""
    parser.add_argument(
        '--gpus', type=whole(1), metavar='N', help='on so many processes of this machine, a GPU each where there are'
    )
    parser.add_argument(
        '--max-restarts',
        type=whole(0),
        metavar='N',
        help='with --gpus: if a process fails, all begin again from the newest checkpoint, at most N times',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_phase(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--phase',
        choices=['train', 'val', 'test'],
        default='train',
        help='whose data set and pipeline (default: train)',
    )


# -- types ---------------------------------------------------------------------------------------------------------


def whole(least: int) -> Callable[[str], int]:
    """The type of an integer of ``least`` or more."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f'{text}: must be a whole number, {least} or more')
        return value

    return parse


def number(least: float, most: float = float('inf')) -> Callable[[str], float]:
    """The type of a number from ``least`` to ``most``."""
    words = f'from {least:g} to {most:g}' if most < float('inf') else f'of {least:g} or more'

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float('nan')
        if not least <= value <= most or value == float('inf'):
            raise argparse.ArgumentTypeError(f'{text}: must be a number {words}')
        return value

    return parse
