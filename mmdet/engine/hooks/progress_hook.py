"""The live line of training, validation and testing, and the speed in the logs."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from mmdet.registry import HOOKS
from mmdet.run.progress import Field, LiveLine, Speed, wants_live
from mmdet.words import duration

from .resource_hook import resident_bytes

WINDOW = 50  # iterations over which losses are averaged


def memory() -> str:
    """Return as text the most GPU memory taken so far, or without a GPU resident memory now, of process and workers."""
    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_bytes()
    return f'{used / 2**30:.1f} GB' if used else ''


def count_images(batch: Any) -> int:
    """Return the number of images in a batch, 1 if it is not a dict with ``inputs``."""
    return len(batch['inputs']) if isinstance(batch, dict) and 'inputs' in batch else 1


def hide_periodic(record: logging.LogRecord) -> bool:
    """Filter logging records: False for LoggerHook's lines of every few iterations."""
    return not (record.module == 'logger_hook' and record.funcName.endswith('_iter'))


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows in a terminal how far the run is, in one line that stays at the bottom.

    Epoch, iteration, losses (mean of the last 50), learning rate, images a second, time left, memory; what does not fit
    into the terminal is left out. LoggerHook's periodic lines then go to the log file only, and an epoch ends with one
    line. Where there is no terminal (:mod:`mmdet.run.progress`) or with ``live=False`` nothing is shown.

    Images a second, of all processes, are the scalar ``images_per_second`` in the logs.

    Args:
        live: show the line.

    Example:
        The commands add it to every run; without the line::

            default_hooks = dict(progress=dict(type='ProgressHook', live=False))
    """

    priority = 'NORMAL'  # before LoggerHook, after RuntimeInfoHook

    def __init__(self, live: bool = True) -> None:
        self.live = live
        self.line: LiveLine | None = None
        self.speed = Speed()
        self._inner = Speed()  # of validation or testing

    def _open(self) -> None:
        if self.live and self.line is None and wants_live():
            self.line = LiveLine()
            self.line.start()
            for handler in self.line.handlers:
                handler.addFilter(hide_periodic)

    def close_display(self, runner: Runner) -> None:
        """End the line; :class:`~mmdet.engine.DetRunner` calls it however the run ends."""
        if self.line is not None:
            for handler in self.line.handlers:
                handler.removeFilter(hide_periodic)
            self.line.stop()
            self.line = None

    def before_train(self, runner: Runner) -> None:
        """Open the line."""
        self._open()

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin to measure the epoch's time and speed."""
        self.speed.start()
        self._began = time.perf_counter()
        if self.line is not None:
            self.line.show([Field(self._where(runner), 0, 'bold'), Field('waiting for the first batch', 1)])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Log ``train/images_per_second``, and draw the line if it is due."""
        self.speed.add(count_images(data_batch) * get_world_size())
        runner.message_hub.update_scalar('train/images_per_second', self.speed.images)
        if self.line is not None and (self.line.due() or batch_idx == 0):
            self.line.show(self._training(runner, batch_idx, self.line))

    def _where(self, runner: Runner) -> str:
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            return 'Iteration'
        return f'Epoch {runner.epoch + 1}/{runner.max_epochs}'

    def _training(self, runner: Runner, batch_idx: int, line: LiveLine) -> list[Field]:
        total = runner.max_iters if isinstance(runner.train_loop, IterBasedTrainLoop) else len(runner.train_dataloader)
        left = self.speed.seconds * (runner.max_iters - runner.iter - 1)
        loss, parts = self._losses(runner)
        return [
            Field(self._where(runner), 0, 'bold'),
            Field(line.bar((batch_idx + 1) / total), 8, 'cyan'),
            Field(f'{batch_idx + 1:{len(str(total))}d}/{total}', 1),
            Field(loss, 2),
            Field(parts, 9, 'dim'),
            Field(f'lr {self._lr(runner):.1e}', 5),
            Field(f'{self.speed.images:.1f} img/s', 4),
            Field(f'ETA {duration(left)}', 3),
            Field(memory(), 6),
        ]

    def _losses(self, runner: Runner) -> tuple[str, str]:
        scalars = runner.message_hub.log_scalars
        means = {
            key[len('train/') :]: scalars[key].mean(WINDOW)
            for key in scalars
            if key.startswith('train/') and 'loss' in key
        }
        total = f'loss {means.pop("loss"):.4f}' if 'loss' in means else ''
        return total, '  '.join(f'{key.replace("loss_", "")} {value:.3f}' for key, value in means.items())

    def _lr(self, runner: Runner) -> float:
        return next(iter(runner.optim_wrapper.get_lr().values()))[0]

    def after_train_epoch(self, runner: Runner) -> None:
        """Print one line on the epoch."""
        if self.line is not None:
            loss, parts = self._losses(runner)
            self.line.print(
                f'{self._where(runner)} trained in {duration(time.perf_counter() - self._began)}: {loss} '
                f'({parts}), lr {self._lr(runner):.1e}, {self.speed.images:.1f} img/s, {memory()}'
            )

    def after_train(self, runner: Runner) -> None:
        """End the line."""
        self.close_display(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Open the line and begin to measure the speed of validation."""
        self._open()
        self._inner = Speed()

    def before_test_epoch(self, runner: Runner) -> None:
        """Open the line and begin to measure the speed of the test."""
        self._open()
        self._inner = Speed()

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """Draw the line of validation if it is due."""
        self._evaluating('Validation', runner.val_dataloader, batch_idx, data_batch)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """Draw the line of the test if it is due."""
        self._evaluating('Test', runner.test_dataloader, batch_idx, data_batch)

    def _evaluating(self, name: str, loader: Any, batch_idx: int, batch: Any) -> None:
        self._inner.add(count_images(batch) * get_world_size())
        last = batch_idx + 1 == len(loader)
        if self.line is None or not (last or batch_idx == 0 or self.line.due()):
            return
        total = len(loader.dataset)
        done = min(total, (batch_idx + 1) * count_images(batch) * get_world_size()) if not last else total
        head = [
            Field(name, 0, 'bold'),
            Field(self.line.bar(done / total), 6, 'cyan'),
            Field(f'{done:{len(str(total))}d}/{total} images', 1),
        ]
        if last:
            self.line.show(head + [Field('computing the metrics', 2)])
        else:
            left = self._inner.seconds * (len(loader) - batch_idx - 1)
            self.line.show(
                head
                + [Field(f'{self._inner.images:.1f} img/s', 3), Field(f'ETA {duration(left)}', 2), Field(memory(), 4)]
            )

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Leave the time of validation out of training's speed, and say that it is done."""
        self.speed.start()  # validation is no part of training's speed
        if self.line is not None:
            self.line.show([Field('Validation', 0, 'bold'), Field('done', 1)])

    def after_val(self, runner: Runner) -> None:
        """End the line, unless the training goes on."""
        if not runner.message_hub.runtime_info.get('loop_stage') == 'train':
            self.close_display(runner)

    def after_test(self, runner: Runner) -> None:
        """End the line."""
        self.close_display(runner)
