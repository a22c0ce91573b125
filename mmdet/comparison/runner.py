"""Runs the trainings of a grid, each in processes of its own, and keeps their results."""

import logging
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from mmdet.comparison.display import Display, progress_of
from mmdet.comparison.grid import (
    Cell,
    MissingEvaluation,
    cell_config,
    cell_result,
    find_norms,
    find_places,
    training_length,
)
from mmdet.comparison.numbers import Numbers, best_rate
from mmdet.comparison.pictures import Pictures, example_ids
from mmdet.comparison.report import write_report
from mmdet.comparison.results import Results
from mmdet.comparison.settings import Settings
from mmdet.comparison.speed import measure_speed
from mmdet.comparison.tracking import find_trackers, send_tables
from mmdet.comparison.trainings import Training, Trainings, locked, signals
from mmdet.config import check_config, load_config
from mmdet.io.atomic import write_atomic
from mmdet.registry import DATASETS
from mmdet.run.launch import check_processes
from mmdet.run.ranks import message
from mmdet.version import __version__


class Grid:
    """The trainings of a command line; ``run`` does those that are not finished, ``jobs`` at a time.

    Args:
        settings: what is compared.
        command: the words of the command line.

    Raises:
        FileNotFoundError, KeyError, TypeError, ValueError: what the config, a norm or the results are lacking.
    """

    def __init__(self, settings: Settings, command: list[str]) -> None:
        self.settings = settings
        self.config = load_config(settings.config, settings.cfg_options, str(settings.folder))
        self.trackers = find_trackers(self.config)
        self.norms = find_norms(settings.norms, self.config)
        self.places = find_places(self.config, settings.where)
        self.results = Results(settings.results)
        # seed by seed, so that a grid which is stopped early has all norms
        every = [
            Cell(norm, batch, seed, lr)
            for seed in settings.seeds
            for lr in settings.rates
            for batch in settings.batch_sizes
            for norm in self.norms
        ]
        # the others' rate is chosen by the first seed
        self.cells = [cell for cell in every if cell.lr is None or cell.seed == settings.seeds[0]]
        self.undecided = list(dict.fromkeys((cell.norm, cell.batch_size) for cell in every if cell.lr is not None))
        if settings.processes > 1:
            check_processes(str(settings.processes))
        self.configs = {
            cell: self._write_config(cell) for cell in every if cell in self.cells or cell.name in self.results.cells
        }
        # pretty_text takes a third of a second
        self.waiting = [
            cell
            for cell in self.configs
            if cell.name not in self.results.cells
            or not self.results.done(cell.name, self.configs[cell].pretty_text, settings.processes)
        ]
        for cell in self.cells[: len(self.norms)]:
            check_config(self.configs[cell], ('train', 'val'))
        self.trainings: Trainings[Cell] = Trainings(settings.jobs, settings.processes)
        self.again: set[Cell] = set()
        self.pictures: Pictures | None = None
        self._examples: list | None = None
        self.results.data['grid'] = dict(
            config=settings.config,
            command=shlex.join(command),
            norms=self.norms,
            batch_sizes=settings.batch_sizes,
            seeds=settings.seeds,
            learning_rates=settings.learning_rates,
            processes=settings.processes,
            jobs=settings.jobs,
            places=self.places,
            cells=[cell.name for cell in self.cells],
            versions=versions(),
        )
        self._choose_rates()

    def folder(self, cell: Cell) -> Path:
        return self.settings.folder / 'cells' / cell.name

    def _write_config(self, cell: Cell) -> Config:
        path = self.folder(cell) / 'config.py'
        text = cell_config(
            self.config,
            path,
            cell,
            self.norms[cell.norm],
            self.places,
            self.settings.cfg_options,
            self.settings.scale_lr,
        )
        write_atomic(text.encode(), path)
        return load_config(str(path))

    @property
    def total(self) -> int:
        """Number of trainings, with those whose learning rate is not yet chosen."""
        return len(self.cells) + len(self.undecided) * (len(self.settings.seeds) - 1)

    def _choose_rates(self) -> None:
        """Add the other seeds of each norm and batch size whose first seed is through with all learning rates."""
        unfinished = {(cell.norm, cell.batch_size) for cell in [*self.waiting, *self.trainings.running]}
        main = Numbers(self.results.data).main
        for norm, batch in [pair for pair in self.undecided if pair not in unfinished]:
            self.undecided.remove((norm, batch))
            first = [Cell(norm, batch, self.settings.seeds[0], lr) for lr in self.settings.rates]
            rates = {cell.lr: [self.results.cells[cell.name]] for cell in first if cell.name in self.results.cells}
            best = best_rate(rates, main)
            for cell in [Cell(norm, batch, seed, best) for seed in self.settings.seeds[1:] if best is not None]:
                self.cells.append(cell)
                self.results.data['grid']['cells'].append(cell.name)
                if cell.name not in self.results.cells:
                    self.configs[cell] = self._write_config(cell)
                    self.waiting.append(cell)
            self.waiting.sort(key=lambda cell: self.settings.seeds.index(cell.seed))

    def command(self, cell: Cell) -> list[str]:
        """Command line of a training for a person to type where the comparison was started."""
        words = ['mmdet', 'train', str(self.folder(cell) / 'config.py'), '--work-dir', str(self.folder(cell) / 'run')]
        return words + (['--gpus', str(self.settings.processes)] if self.settings.processes > 1 else [])

    def _finish(self, cell: Cell, training: Training) -> str:
        """Keep what an ended training has done; what is to be said of it."""
        folder, seconds = self.folder(cell), time.time() - training.start
        if training.process.returncode != 0:
            return self._fail(cell, training.reason())
        try:
            examples = self._example_ids() if cell.seed == self.settings.seeds[0] else ()
            result = cell_result(
                folder,
                cell,
                self.norms[cell.norm],
                self.configs[cell].pretty_text,
                shlex.join(self.command(cell)),
                self.settings.processes,
                seconds,
                examples,
            )
        except MissingEvaluation as error:
            # Its last checkpoint is complete, so that going on from it would do nothing
            if cell in self.again:
                return self._fail(cell, str(error))
            self.again.add(cell)
            shutil.rmtree(folder / 'run')
            self.waiting.append(cell)
            return f'{cell.name}: {error}; trained again'
        except (KeyError, OSError, ValueError) as error:
            return self._fail(cell, message(error))
        self.results.add(cell.name, result)
        if self.settings.remove_checkpoints:
            for path in (folder / 'run').glob('*.pth'):
                path.unlink()
        scores = ', '.join(
            f'{key.split("/")[-1]} {value:.3f}' for key, value in result['metrics'].items() if key.endswith('_mAP')
        )
        return f'{cell.name}: {scores}; {seconds:.0f} s'

    def _fail(self, cell: Cell, reason: str) -> str:
        self.results.fail(cell.name, reason)
        return f'{cell.name}: FAILED: {reason} (see {self.folder(cell) / "output.txt"})'

    def _example_ids(self, number: int = 4) -> list:
        """Ids of the images whose detections are kept: spread evenly over the validation set."""
        if self._examples is None:
            init_default_scope('mmdet')
            dataset = DATASETS.build(self.config.val_dataloader.dataset)
            step = max(1, len(dataset) // number)
            self._examples = [dataset.get_data_info(i)['img_id'] for i in range(step // 2, len(dataset), step)][:number]
        return self._examples

    def run(self) -> None:
        """Train what is not finished, keep the page up to date; at the end measure speed, unless it is known.

        Raises:
            KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; the trainings have saved their state.
            RuntimeError: another runner, or a training that one has left behind, works in the same folder.
        """
        running = self.trainings.running
        with locked(self.settings.folder) as lock, signals(), _quiet(), Display(self.total) as display:
            display.say(
                f'{self.total} trainings, {len(self.cells) - len(self.waiting)} of them finished; page: '
                f'{self.settings.folder / "index.html"}'
            )
            self.results.save()
            self.report(display, True)
            try:
                while self.waiting or running:
                    while self.waiting and self.trainings.slots:
                        cell = self.waiting.pop(0)
                        self.trainings.start(cell, self.command(cell), self.folder(cell), lock)
                    time.sleep(0.5)
                    ended = self.trainings.ended()
                    for cell, training in ended.items():
                        display.say(self._finish(cell, training))
                    if ended:
                        self._choose_rates()
                        display.total = self.total
                        self.report(display, bool(self.waiting or running))
                    display.show(len(self.cells) - len(self.waiting) - len(running), self._lines(), self._left())
                if self.results.cells and self.settings.speed_seconds and not self._speed_known():
                    self.measure(display)
            finally:
                if running:
                    display.say(f'saving the state of {len(running)} trainings (once more to end them at once)')
                for cell, training in self.trainings.stop().items():
                    if training.process.returncode == 0:  # at its end by itself
                        display.say(self._finish(cell, training))
                self.report(display, False)
            self.track(display)

    def _lines(self) -> list[str]:
        lines = []
        for cell in self.trainings.running:
            unit, last = training_length(self.configs[cell])
            lines.append(f'{cell.name}: {progress_of(self.folder(cell) / "run", unit, last)}')
        return lines

    def _left(self) -> float | None:
        """Seconds that the rest will take, by those of the finished cells; None if nothing is known."""
        known: dict[int, list[float]] = {}
        for cell in self.results.cells.values():
            known.setdefault(cell['batch_size'], []).append(cell.get('seconds') or 0)
        if not known:
            return None
        every = fmean(value for values in known.values() for value in values)
        means = {batch: fmean(values) for batch, values in known.items()}
        left = sum(means.get(cell.batch_size, every) for cell in self.waiting)
        left += sum(
            max(0, means.get(cell.batch_size, every) - (time.time() - training.start))
            for cell, training in self.trainings.running.items()
        )
        left += sum(means.get(batch, every) * (len(self.settings.seeds) - 1) for _, batch in self.undecided)
        return left / self.settings.jobs

    def _speed_known(self) -> bool:
        known = (self.results.data.get('speed') or {}).get('batch_sizes') or {}
        return all(norm in known.get(str(batch), ()) for batch in self.settings.batch_sizes for norm in self.norms)

    def measure(self, display: Display) -> None:
        """Add what a training step of each norm costs to the results."""
        seed, lr = self.settings.seeds[0], self.settings.rates[0]
        configs = {
            batch: {norm: self.configs[Cell(norm, batch, seed, lr)] for norm in self.norms}
            for batch in self.settings.batch_sizes
        }
        self.results.data['speed'] = measure_speed(configs, self.settings.speed_seconds, display.say)
        self.results.save()

    def measure_only(self) -> None:
        with locked(self.settings.folder), _quiet(), Display(len(self.cells)) as display:
            self.measure(display)
            self.report(display, False)
            self.track(display)

    def report(self, display: Display, running: bool) -> None:
        """The page, for people to look at: not worth the trainings that go on."""
        try:
            ids = example_ids(list(self.results.cells.values()))
            if ids and (self.pictures is None or set(ids) - self.pictures.wanted):
                self.pictures = Pictures(self.config.val_dataloader.dataset, ids)
            write_report(self.results.data, self.settings.folder, self.pictures, running=running)
        except Exception as error:
            display.say(f'{self.settings.folder / "index.html"} could not be made: {type(error).__name__}: {error}')

    def track(self, display: Display) -> None:
        """The tables for Weights & Biases and MLflow; what they say, or a network, ends nothing."""
        try:
            send_tables(self.results, self.settings.folder, self.trackers)
        except Exception as error:
            display.say(
                f'{" and ".join(self.trackers)} have no table, or not all of it: {type(error).__name__}: {error}; '
                '--report-only tries again'
            )


def versions() -> dict[str, str]:
    found = dict(mmdet=__version__, python='.'.join(map(str, sys.version_info[:3])))
    for name in ('torch', 'torchvision', 'onedl-mmengine', 'onedl-mmcv', 'numpy'):
        found[name] = version(name)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """What data sets and models say of themselves would come in the midst of the progress."""
    logger = MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
