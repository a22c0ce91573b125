"""Training loops that go on after a kill as if nothing had happened."""
import logging
from itertools import islice
from typing import Any, Iterator, Union

from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object, get_rank
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as _IterBasedTrainLoop
from torch.utils.data import DataLoader

from mmdet.datasets.seeding import SeededBatchSampler, derive_seed, seed_generators, seeded_dataloader
from mmdet.registry import LOOPS


class _Resumable:
    """What both loops do for a resumed run.

    All randomness follows from the run's seed, which is in the checkpoint, and from counters: an iteration's from
    the process' rank and the iteration, an augmentation's from epoch, batch and index
    (:class:`~mmdet.datasets.seeding.SeededBatchSampler`). So there are no generators to save.
    """

    def __init__(self, runner, dataloader: Union[DataLoader, dict], *args, **kwargs) -> None:
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
            raise RuntimeError(f'the processes start at iterations {starts}: not all have read the same checkpoint. '
                               f'Every machine needs it at {self.runner._load_from or self.runner.work_dir}')
        # The samplers were built before the checkpoint was read, perhaps with another seed.
        batch_sampler = self.dataloader.batch_sampler
        if isinstance(batch_sampler, SeededBatchSampler):
            batch_sampler.seed = self.run_seed
            if hasattr(batch_sampler.sampler, 'seed') and not self._sampler_has_seed:
                batch_sampler.sampler.seed = self.run_seed
        counts = getattr(self.runner.optim_wrapper, '_accumulative_counts', 1)
        if self._iter % counts:
            print_log(f'resumed at iteration {self._iter}, inside an accumulation of {counts}: the gradients before it '
                      f'are lost. Save at multiples of {counts}.', 'current', logging.WARNING)
        return super().run()

    def run_iter(self, *args, **kwargs) -> None:
        seed_generators(derive_seed(self.run_seed, get_rank(), self._iter))
        super().run_iter(*args, **kwargs)


@LOOPS.register_module()
class EpochBasedTrainLoop(_Resumable, _EpochBasedTrainLoop):
    """mmengine's loop over epochs, which a checkpoint may also leave in the middle of an epoch.

    The batches before the checkpoint are skipped by the sampler. They are loaded and thrown away if the runner was
    given a built ``DataLoader`` instead of a config; its augmentation is not seeded either.

    Not in a checkpoint: gradients that wait for an optimizer step (``accumulative_counts`` above 1). After a
    checkpoint inside an accumulation its earlier iterations are lost, and the loop says so.
    """

    def run(self) -> Any:
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
        print_log(f"the checkpoint was written after {done} of an epoch's {saved['length']} batches, which now has "
                  f'{length}: goes on after {start}; some images are seen twice or not at all in this epoch', 'current',
                  logging.WARNING)
        return start

    def run_epoch(self) -> None:
        start, self._start = self._start, 0
        length = len(self.dataloader)
        self.runner.message_hub.update_info(
            'train_epoch', dict(epoch=self._epoch, first_iter=self._iter - start, length=length))
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        if start < length:
            for idx, batch in enumerate(self._batches(start), start):
                self.run_iter(idx, batch)
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
        self._epoch = 0
        self._batches = None

    def _begin(self, start: int = 0) -> None:
        batch_sampler = self._dataloader.batch_sampler
        batch_sampler.begin(self._epoch, start)
        if hasattr(batch_sampler.sampler, 'set_epoch'):
            batch_sampler.sampler.set_epoch(self._epoch)
        self._batches = iter(self._dataloader)

    def skip_iter(self, number: int) -> None:
        """The first ``number`` batches of the run are left out, without loading them; called before any is read."""
        if isinstance(self._dataloader.batch_sampler.sampler, InfiniteSampler):  # one epoch without an end
            self._begin(number)
        else:
            self._epoch, start = divmod(number, len(self._dataloader))
            self._begin(start)

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        if self._batches is None:
            self._begin()
        try:
            return next(self._batches)
        except StopIteration:
            self._epoch += 1
            self._begin()
            return next(self._batches)


@LOOPS.register_module()
class IterBasedTrainLoop(_Resumable, _IterBasedTrainLoop):
    """mmengine's loop over iterations; see :class:`EpochBasedTrainLoop` for what a resumed run does not have."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.dataloader.batch_sampler, SeededBatchSampler):
            self.dataloader_iterator = _EndlessBatches(self.dataloader)
