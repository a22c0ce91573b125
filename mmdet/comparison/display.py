"""How far a grid of trainings is: live in a terminal, plain lines elsewhere."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mmdet.words import duration


def progress_of(run: Path, unit: str, last: int) -> str:
    """'epoch 2 of 4, iteration 150, loss 1.234', by the last record of a run's log."""
    files = sorted(run.glob('*/vis_data/scalars.json'))
    for line in reversed(_tail(files[-1]) if files else []):
        try:
            record = json.loads(line)
            if 'loss' in record:
                step = record['step']
                where = (
                    f'epoch {record["epoch"]} of {last}, iteration {step}'
                    if unit == 'epoch'
                    else f'iteration {step} of {last}'
                )
                return f'{where}, loss {record["loss"]:.3f}'
        except (KeyError, TypeError, ValueError):
            continue
    return 'starts'


def _tail(path: Path, size: int = 8192) -> list[str]:
    with open(path, 'rb') as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - size))
        return file.read().decode(errors='replace').splitlines()


class Display:
    """A bar over the trainings and a line for each that runs; without a terminal, only what is said.

    Args:
        total: number of trainings.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.live = Live(console=Console(), refresh_per_second=2, transient=True) if sys.stdout.isatty() else None

    def __enter__(self) -> 'Display':
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error) -> None:
        if self.live:
            self.live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.live:
            self.live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def show(self, done: int, lines: Sequence[str], left: float | None) -> None:
        """Numbers that change: trainings done (or failed), what the others do, seconds left."""
        if self.live is None:
            return
        head = f'{done} of {self.total} trainings' + ('' if left is None else f', about {duration(left)} left')
        rows = Table.grid()
        rows.add_row(Text(head))
        rows.add_row(ProgressBar(self.total, done, width=60))
        for line in lines:
            rows.add_row(Text(line))
        self.live.update(rows)
