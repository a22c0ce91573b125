"""Randomness counted, not drawn: a training sample's augmentation follows from where it stands in the run."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import BatchSampler, Sampler


class SeededIndex(NamedTuple):
    """Holds what :class:`SeededBatchSampler` asks of :class:`SeededDataset`: a sample, and the seed to make it with."""

    index: int  # type: ignore[assignment]  # hides tuple.index, for which nobody asks
    seed: int


def derive_seed(*parts: int) -> int:
    """Compute a seed of 64 bits; different integers, or another number of them, give unrelated seeds."""
    text = ','.join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), 'little')


def seed_generators(seed: int, cuda: bool = True) -> None:
    """Seed ``random``, NumPy and torch, on GPUs too with ``cuda``, from 64 bits."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    (torch.manual_seed if cuda else torch.default_generator.manual_seed)(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators on the CPU inside a ``with`` block; outside they go on where they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_generators(seed, cuda=False)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class SeededDataset:
    """Wraps a data set so that a sample depends on nothing but index and seed, in whichever process it is loaded.

    A plain index is passed on as it is. All other attributes are the inner data set's.

    Args:
        dataset: any map-style data set, or the config of one.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    def __getitem__(self, index: int | SeededIndex) -> Any:
        if not isinstance(index, SeededIndex):
            return self.dataset[index]
        with seeded(index.seed):
            return self.dataset[index.index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):  # asked for by pickle before there is a data set
            raise AttributeError(name)
        return getattr(self.dataset, name)


class SeededBatchSampler(Sampler):
    """Makes batches of :class:`SeededIndex` from any batch sampler, from any batch of an epoch on.

    A sample's seed comes from the run's seed, the epoch, the batch's number in it and the index.

    Args:
        sampler, batch_size, drop_last: as in torch's BatchSampler.
        batch_sampler: config of the batch sampler; torch's without one.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        batch_sampler: dict | BatchSampler | None = None,
        drop_last: bool = False,
    ) -> None:
        if isinstance(batch_sampler, dict):
            arguments = dict(sampler=sampler, batch_size=batch_size)
            self.batch_sampler: BatchSampler = DATA_SAMPLERS.build(batch_sampler, default_args=arguments)
        else:
            own = BatchSampler(sampler, batch_size, drop_last) if batch_sampler is None else batch_sampler
            self.batch_sampler = own
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = getattr(self.batch_sampler, 'drop_last', drop_last)
        self.seed = 0
        self.epoch = 0
        self._start = 0

    def begin(self, epoch: int, start: int = 0) -> None:
        """Let the next iteration be of this epoch and leave out the first ``start`` batches, without loading them."""
        self.epoch = epoch
        self._start = start

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        start, self._start = self._start, 0
        for number, batch in enumerate(self.batch_sampler):
            if number >= start:
                yield [SeededIndex(index, derive_seed(self.seed, self.epoch, number, index)) for index in batch]

    def __len__(self) -> int:
        return len(self.batch_sampler)


def seeded_dataloader(cfg: dict) -> dict:
    """Return a data loader's config with :class:`SeededDataset` and :class:`SeededBatchSampler` around its parts."""
    cfg = dict(cfg)
    inner: dict | None = cfg.pop('batch_sampler', None)
    cfg['batch_sampler'] = dict(type=SeededBatchSampler, batch_sampler=inner, drop_last=cfg.pop('drop_last', False))
    cfg['dataset'] = dict(type=SeededDataset, dataset=cfg['dataset'])
    return cfg
