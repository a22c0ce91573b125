"""Checkpoints of which one is there at any moment."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as _CheckpointHook
from mmengine.runner import Runner

from mmdet.io.atomic import remove_leftovers, write_atomic
from mmdet.registry import HOOKS
from mmdet.run.prepare import setup


class LateRemoval:
    """Wraps a file backend so that the files it is asked to remove stay until :meth:`flush`.

    Nothing outside ``folder`` is removed: the names of old checkpoints come out of the checkpoint that a run resumes
    from, which may be another machine's, or a stranger's.

    Args:
        backend: mmengine's file backend, whose other methods are passed on.
        folder: where files may be removed.
    """

    def __init__(self, backend: Any, folder: str) -> None:
        self._backend = backend
        self._folder = folder
        self._waiting: list[str] = []

    def _is_ours(self, path: str) -> bool:
        return '://' in self._folder or Path(path).resolve().parent == Path(self._folder).resolve()

    def remove(self, path: str) -> None:
        """Remember a file of the folder to be removed; any other is left where it is."""
        if self._is_ours(path):
            self._waiting.append(path)

    def rmtree(self, path: str) -> None:
        """Remove a directory of the folder, at once; any other is left where it is."""
        if self._is_ours(path):
            self._backend.rmtree(path)

    def forget(self) -> None:
        """Keep the files that were to be removed."""
        self._waiting.clear()

    def flush(self, keep: set) -> None:
        """Remove the files now, but for the paths in ``keep``, which have been written anew."""
        for path in self._waiting:
            if path not in keep and self._backend.isfile(path):
                self._backend.remove(path)
        self._waiting.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@HOOKS.register_module()
class CheckpointHook(_CheckpointHook):
    """Saves checkpoints; mmengine's hook, but old ones are removed after the new one is written and not before.

    So a run that is killed while it writes can be resumed with ``max_keep_ckpts=1``, too, and keeps its best weights.
    What such runs had written of a checkpoint is removed at the next start.

    A run that is interrupted saves its state in between (:meth:`save_interrupted`): as ``iter_N.pth``, beyond
    ``max_keep_ckpts``, and only until the next checkpoint is there.

    A checkpoint that cannot be written, as the disk is full, is tried again when the next one is due, and the older
    ones stay. After :attr:`attempts` in a row the run ends with OSError.

    Example:
        In a config, one checkpoint each epoch, of which the last two and the best stay; arguments are mmengine's::

            default_hooks = dict(
                checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best='coco/bbox_mAP')
            )
    """

    attempts = 3
    file_backend: LateRemoval
    _failures = 0

    #: epoch and iteration of the last checkpoint, the number in its name
    _written: tuple = (None, None, None)

    def before_run(self, runner: Runner) -> None:
        """Set up reading and writing (:func:`mmdet.run.prepare.setup`), for runs of mmengine's own runner."""
        setup()  # for runs of mmengine's own runner, before it reads

    def before_train(self, runner: Runner) -> None:
        """Find the folder, and remove what killed runs have left in it.

        Raises:
            OSError: no file can be made there.
        """
        super().before_train(runner)
        if is_main_process() and '://' not in self.out_dir:
            try:
                os.makedirs(self.out_dir, exist_ok=True)
                tempfile.TemporaryFile(dir=self.out_dir).close()
            except OSError as error:
                where = 'default_hooks.checkpoint.out_dir' if self.out_dir != runner.work_dir else 'work_dir'
                raise OSError(
                    error.errno, f'{where} {self.out_dir}: no checkpoint can be written: {error.strerror}'
                ) from None
        if is_main_process():
            for folder in {self.out_dir, runner.work_dir}:
                remove_leftovers(folder)
        self.file_backend = LateRemoval(self.file_backend, self.out_dir)

    def save_interrupted(self, runner: Runner) -> str:
        """Save the state between two iterations or after an epoch, for resuming; returns the path.

        A regular checkpoint of this very state is written anew instead, with what the message hub has learnt since.
        To be called in every process.
        """
        epoch, iteration, step = self._written
        if (epoch, iteration) == (runner.epoch, runner.iter):
            self._save_checkpoint_with_step(runner, step, dict(epoch=epoch, iter=iteration))
            return self.last_ckpt
        name = f'iter_{runner.iter}.pth'
        path = self.file_backend.join_path(self.out_dir, name)
        old = runner.message_hub.runtime_info.get('interrupted_ckpt')
        if path != self.last_ckpt:
            runner.message_hub.update_info('interrupted_ckpt', name)
        runner.save_checkpoint(
            self.out_dir,
            name,
            meta=dict(epoch=runner.epoch, iter=runner.iter),
            by_epoch=False,
            backend_args=self.backend_args,
        )
        if is_main_process():
            write_atomic(path.encode(), Path(runner.work_dir) / 'last_checkpoint')
            if old and old != name:
                self.file_backend.remove(self.file_backend.join_path(self.out_dir, old))
                self.file_backend.flush({path})
        return path

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self._written = meta['epoch'], meta['iter'], step
        super()._save_checkpoint_with_step(runner, step, meta)

    @contextmanager
    def _trying(self, runner: Runner) -> Iterator[list[OSError]]:
        """Errors of writing are collected; with one the hook is as it was before, at the end."""
        names = ('last_ckpt', 'best_ckpt_path', 'best_ckpt_path_dict', 'keep_ckpt_ids', '_written')
        before = {name: copy(getattr(self, name)) for name in names if hasattr(self, name)}
        info = dict(runner.message_hub.runtime_info)
        errors: list[OSError] = []
        runner.write_errors = errors
        try:
            yield errors
        finally:
            runner.write_errors = None
        if not errors:
            self._failures = 0
            return
        for name, value in before.items():
            setattr(self, name, value)
        for key in set(runner.message_hub.runtime_info) - set(info):
            del runner.message_hub.runtime_info[key]
        runner.message_hub.runtime_info.update(info)
        self.file_backend.forget()
        self._failures += 1
        older = f'the last one that is whole is {self.last_ckpt}' if self.last_ckpt else 'there is none before it'
        text = f'checkpoint {errors[0].strerror or errors[0]}; {older}'
        if self.last_ckpt:
            with suppress(OSError):  # mmengine has written the name of the one that is not there
                write_atomic(str(self.last_ckpt).encode(), Path(runner.work_dir) / 'last_checkpoint')
        if self._failures >= self.attempts:
            raise OSError(errors[0].errno, f'{text}; {self._failures} times in a row, the run ends')
        runner.logger.warning(
            f'{text}; tried again when the next one is due, {self._failures} of {self.attempts} failed attempts'
        )

    def _save_checkpoint(self, runner: Runner) -> None:
        with self._trying(runner) as errors:
            super()._save_checkpoint(runner)
        if errors:
            return
        interrupted = runner.message_hub.runtime_info.get('interrupted_ckpt')
        if interrupted:
            runner.message_hub.update_info('interrupted_ckpt', '')
            if is_main_process():
                self.file_backend.remove(self.file_backend.join_path(self.out_dir, interrupted))
        self._flush()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._trying(runner) as errors:
            super()._save_best_checkpoint(runner, metrics)
        if not errors:
            self._flush()

    def _flush(self) -> None:
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        self.file_backend.flush({self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best})
