"""Training loops that go on after a kill as if nothing had happened."""

import logging
from bisect import bisect
from collections.abc import Iterator
from itertools import islice
from typing import Any, NoReturn, cast

from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object, barrier, get_rank
from mmengine.logging import print_log
from mmengine.runner import BaseLoop
from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as _IterBasedTrainLoop
from torch.utils.data import DataLoader

from mmdet.datasets.seeding import SeededBatchSampler, derive_seed, seed_generators, seeded_dataloader
from mmdet.engine.hooks.checkpoint_hook import CheckpointHook
from mmdet.registry import LOOPS
from mmdet.run.interrupt import FAILED, Interrupted, agreed_to_stop, stop_signals
from mmdet.run.ranks import message

from .steps import Steps


class _Resumable(BaseLoop):
    """What both loops do for a resumed run.

    All randomness follows from the run's seed, which is in the checkpoint, and from counters: an iteration's from
    the process' rank and the iteration, an augmentation's from epoch, batch and index
    (:class:`~mmdet.datasets.seeding.SeededBatchSampler`). So there are no generators to save.

    A signal ends the run after an iteration, with all processes at the same one: its state is saved and
    :class:`~mmdet.run.interrupt.Interrupted` raised. A validation that was ended or not begun is made up for first
    when the run is resumed.
    """

    def __init__(self, runner, dataloader: DataLoader | dict, *args, **kwargs) -> None:
        if isinstance(dataloader, dict):
            self._sampler_has_seed = (dataloader.get('sampler') or {}).get('seed') is not None
            dataloader = seeded_dataloader(dataloader)
        super().__init__(runner, dataloader, *args, **kwargs)

    @property
    def run_seed(self) -> int:
        """The run's seed, the same in all processes."""
        # With diff_rank_seed mmengine has added the rank.
        return self.runner.seed - (get_rank() if self.runner._randomness_cfg.get('diff_rank_seed') else 0)

    def run(self) -> Any:
        """Train; RuntimeError if not every process has read the same checkpoint."""
        starts = all_gather_object(self._iter)
        if len(set(starts)) > 1:
            raise RuntimeError(
                f'the processes start at iterations {starts}: not all have read the same checkpoint. '
                f'Every machine needs it at {self.runner._load_from or self.runner.work_dir}'
            )
        self._seed_samplers()
        self._step = Steps(self.runner)
        self._begun = self._iter
        with stop_signals():
            self.runner.call_hook('before_train')
            if self.runner.message_hub.runtime_info.get('unvalidated') and self.runner.val_loop is not None:
                self._validate()
            self._train()
            self.runner.call_hook('after_train')
        if self._begun and self._iter == self._begun and not self.stop_training:
            self._say_finished()
        return self.runner.model

    def _seed_samplers(self) -> None:
        # The samplers were built before the checkpoint was read, perhaps with another seed.
        batch_sampler = self.dataloader.batch_sampler
        if isinstance(batch_sampler, SeededBatchSampler):
            batch_sampler.seed = self.run_seed
            if hasattr(batch_sampler.sampler, 'seed') and not self._sampler_has_seed:
                batch_sampler.sampler.seed = self.run_seed

    def _say_finished(self) -> None:
        epochs = isinstance(self, _EpochBasedTrainLoop)
        done, most = (self._epoch, 'max_epochs') if epochs else (self._iter, 'max_iters')
        print_log(
            f'nothing left to train: {most.removeprefix("max_")[:-1]} {done} was the last one of train_cfg.{most}='
            f'{getattr(self, f"_{most}")}; a larger number goes on, with the learning rate that the schedulers have '
            'come to',
            'current',
            logging.WARNING,
        )

    def _end_if_asked(self, validation_due: bool = False, error: Exception | None = None) -> None:
        """Between two iterations: save and raise Interrupted if a process has received a signal, or ``error``, with
        which a process could not load its next batch."""
        signum = agreed_to_stop(error is not None)
        if signum == FAILED:
            self._save_and_fail(error)
        elif signum:
            raise Interrupted(signum, self._save(validation_due))

    def _save(self, validation_due: bool = False) -> str:
        self.runner.message_hub.update_info('unvalidated', validation_due)
        hook = next((hook for hook in self.runner.hooks if isinstance(hook, CheckpointHook)), None)
        if hook is None:
            hook = CheckpointHook()
            hook.before_train(self.runner)
        path = hook.save_interrupted(self.runner)
        barrier()  # a process that leaves earlier would have torchrun end the one that writes
        return path

    def _save_and_fail(self, error: Exception | None) -> NoReturn:
        path = self._save() if self._iter > self._begun else None
        if error is None:
            barrier()  # ends when the process that has failed does, after its words
            raise RuntimeError('connection closed by a process that could not load its data')
        kind, _, text = message(error).partition(': ')
        if path:
            text += f'. The state before it is saved to {path}; go on with --resume'
        if text.startswith('image '):
            text += (', and without such images' if path else '. To train without such images') + (
                ' --cfg-options train_dataloader.dataset.skip_broken=0.01'
            )
        raise dict(FileNotFoundError=FileNotFoundError, ValueError=ValueError).get(kind, RuntimeError)(
            text if kind in ('FileNotFoundError', 'ValueError', 'RuntimeError') else f'{kind}: {text}'
        ) from error

    @staticmethod
    def _next(batches: Iterator) -> tuple[Any, Exception | None]:
        """A batch and what kept it from being loaded, one of them None; both at the end."""
        try:
            return next(batches), None
        except StopIteration:  # a loader that is shorter than it said
            return None, None
        except Exception as error:
            return None, error

    def _validate_if_due(self, done: int) -> None:
        """After an iteration or epoch, of which ``done`` are done."""
        due = self._is_due(done)
        if due or not self._is_last(done):
            self._end_if_asked(due)
        if due:
            self._validate()

    def _is_last(self, done: int) -> bool:
        return done == (self._max_epochs if isinstance(self, _EpochBasedTrainLoop) else self._max_iters)

    def _is_due(self, done: int) -> bool:
        """Whether to validate after so many iterations or epochs."""
        self.val_interval = self.dynamic_intervals[bisect(self.dynamic_milestones, done + 1) - 1]
        return (
            self.runner.val_loop is not None
            and done >= self.val_begin
            and (done % self.val_interval == 0 or self._is_last(done))
        )

    def _tell_if_due(self, done: int) -> None:
        # Before checkpoints are written: a run that is killed while it validates does so again when it is resumed.
        self.runner.message_hub.update_info('unvalidated', self._is_due(done))

    def _validate(self) -> None:
        try:
            self.runner.val_loop.run()
        except Interrupted as stop:
            raise Interrupted(stop.signum, self._save(validation_due=True)) from None
        self.runner.message_hub.update_info('unvalidated', False)

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """As in mmengine, with the randomness of this iteration and a step of :class:`Steps`."""

        def reseed() -> None:
            seed_generators(derive_seed(self.run_seed, get_rank(), self._iter))

        reseed()
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        outputs = self._step(data_batch, self._iter, reseed)
        if isinstance(self, _IterBasedTrainLoop):
            self._tell_if_due(self._iter + 1)
        self.runner.call_hook('after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1


@LOOPS.register_module()
class EpochBasedTrainLoop(_Resumable, _EpochBasedTrainLoop):
    """Trains for a number of epochs; mmengine's loop, which goes on from a checkpoint in the middle of an epoch, too.

    All randomness follows from the run's seed and from counters, so a resumed run ends as it would have without a
    break. The batches before the checkpoint are skipped by the sampler. They are loaded and thrown away if the runner
    was given a built ``DataLoader`` instead of a config; its augmentation is not seeded either.

    Example:
        In a config, with a validation after each epoch::

            train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
    """

    def run(self) -> Any:
        """Train from where the checkpoint was written, or from the beginning; returns the model.

        Raises:
            RuntimeError: not every process has read the same checkpoint.
            Interrupted: a signal has ended the run, whose state is saved.
        """
        self._start = self._position()
        return super().run()

    def _position(self) -> int:
        """How many batches of this epoch are done."""
        length = len(self.dataloader)
        saved = self.runner.message_hub.runtime_info.get('train_epoch')
        if saved is None:  # written by another loop
            saved = dict(epoch=self._epoch, first_iter=self._epoch * length, length=length)
        done = self._iter - saved['first_iter'] if saved['epoch'] == self._epoch else 0
        if not 0 <= done <= saved['length']:
            done = 0
        if saved['length'] == length or not done:
            return done
        start = done * length // saved['length']
        print_log(
            f"the checkpoint was written after {done} of an epoch's {saved['length']} batches, which now has "
            f'{length}: goes on after {start}; some images are seen twice or not at all in this epoch',
            'current',
            logging.WARNING,
        )
        return start

    def _train(self) -> None:
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due(self._epoch)

    def run_epoch(self) -> None:
        """Train one epoch, or what is left of it after a checkpoint."""
        start, self._start = self._start, 0
        length = len(self.dataloader)
        self.runner.message_hub.update_info(
            'train_epoch', dict(epoch=self._epoch, first_iter=self._iter - start, length=length)
        )
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        if start < length:
            batches = self._batches(start)
            for idx in range(start, length):
                batch, error = self._next(batches)
                self._end_if_asked(error=error)
                if batch is None:
                    break
                self.run_iter(idx, batch)
        self._tell_if_due(self._epoch + 1)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _batches(self, start: int) -> Iterator:
        batch_sampler = self.dataloader.batch_sampler
        if not isinstance(batch_sampler, SeededBatchSampler):
            return islice(self.dataloader, start, None)
        batch_sampler.begin(self._epoch, start)
        return iter(self.dataloader)


class _EndlessBatches:
    """A data loader's batches, epoch after epoch; what mmengine's loop over iterations reads from."""

    def __init__(self, dataloader: DataLoader) -> None:
        self._dataloader = dataloader
        self._batch_sampler = cast(SeededBatchSampler, dataloader.batch_sampler)
        self._epoch = 0
        self._batches: Iterator | None = None

    def _begin(self, start: int = 0) -> Iterator:
        self._batch_sampler.begin(self._epoch, start)
        if hasattr(self._batch_sampler.sampler, 'set_epoch'):
            self._batch_sampler.sampler.set_epoch(self._epoch)
        self._batches = iter(self._dataloader)
        return self._batches

    def skip_iter(self, number: int) -> None:
        """The first ``number`` batches of the run are left out, without loading them; called before any is read."""
        if isinstance(self._batch_sampler.sampler, InfiniteSampler):  # one epoch without an end
            self._begin(number)
        else:
            self._epoch, start = divmod(number, len(self._dataloader))
            self._begin(start)

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        batches = self._begin() if self._batches is None else self._batches
        try:
            return next(batches)
        except StopIteration:
            self._epoch += 1
            return next(self._begin())


@LOOPS.register_module()
class IterBasedTrainLoop(_Resumable, _IterBasedTrainLoop):
    """Trains for a number of iterations; mmengine's loop, which goes on from a checkpoint as if without a break.

    Example:
        In a config, with a validation every 1000 iterations::

            train_cfg = dict(type='IterBasedTrainLoop', max_iters=90000, val_interval=1000)
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.dataloader.batch_sampler, SeededBatchSampler):
            self.dataloader_iterator = _EndlessBatches(self.dataloader)

    def _train(self) -> None:
        self.runner.call_hook('before_train_epoch')
        if self._iter and not self.fast_forward_on_resume:
            self.dataloader_iterator.skip_iter(self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            batch, error = self._next(self.dataloader_iterator)
            self._end_if_asked(error=error)
            self.run_iter(self._iter, batch)
            self._validate_if_due(self._iter)
        self.runner.call_hook('after_train_epoch')
