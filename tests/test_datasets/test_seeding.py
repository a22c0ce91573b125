"""Seeded samples and batches."""

import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, DefaultSampler, RepeatDataset
from torch.utils.data import BatchSampler, SequentialSampler

from mmdet.datasets.seeding import (
    SeededBatchSampler,
    SeededDataset,
    SeededIndex,
    derive_seed,
    seed_generators,
    seeded,
    seeded_dataloader,
)


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


class Draws(BaseDataset):
    """Samples of three random numbers; index 2 is broken, so that another one is taken."""

    def load_data_list(self):
        return [dict(place=i) for i in range(6)]

    def prepare_data(self, idx):
        place = self.get_data_info(idx)['place']
        return None if place == 2 else (place, *draw())


def dataset():
    return SeededDataset(Draws(pipeline=[]))


def test_sample_depends_on_index_and_seed_only():
    data = dataset()
    first = data[SeededIndex(4, 123)]
    draw()
    assert first == data[SeededIndex(4, 123)] == pickle.loads(pickle.dumps(data))[SeededIndex(4, 123)]
    other = data[SeededIndex(4, 124)]
    assert all(a != b for a, b in zip(first[1:], other[1:])) and first[0] == other[0] == 4


def test_refetched_sample_is_the_same_one():
    data = dataset()
    taken = {data[SeededIndex(2, 5)] for _ in range(5)}
    assert len(taken) == 1
    assert len({data[SeededIndex(2, seed)][0] for seed in range(30)}) > 1


def test_generators_go_on_where_they_were():
    seed_generators(1)
    draw()
    expected = draw()
    seed_generators(1)
    draw()
    dataset()[SeededIndex(2, 7)]
    with pytest.raises(ZeroDivisionError), seeded(8):
        draw()
        1 / 0
    assert draw() == expected


def test_plain_index_draws_from_the_generators():
    data = dataset()
    seed_generators(1)
    first = data[3]
    seed_generators(1)
    assert first == (3, *draw()) and data[3] != first


@pytest.mark.parametrize('wrap', [lambda d: RepeatDataset(d, 2), lambda d: ConcatDataset([d, Draws(pipeline=[])])])
def test_through_wrappers(wrap):
    data = SeededDataset(wrap(Draws(pipeline=[])))
    sampler = SeededBatchSampler(SequentialSampler(data), 4)
    batches = list(sampler)
    one, two = batches[0][0], batches[1][2]  # indices 0 and 6: image 0 twice
    assert (one.index, two.index) == (0, 6) and len(data) == 12
    assert data[one][0] == data[two][0] == 0 and data[one][1:] != data[two][1:]
    assert data[one] == data[one]


def test_attributes_are_those_of_the_inner_data_set():
    data = dataset()
    assert data.get_data_info(3)['place'] == 3 and data.metainfo == data.dataset.metainfo
    assert not hasattr(data, 'no_such') and not hasattr(data, '__getitems__')


def test_seeds_differ():
    seeds = {derive_seed(*parts) for parts in [(0, 1), (1, 0), (0, 1, 0), (1,), (11,), (1, 1), (-1, 0)]}
    assert len(seeds) == 7 and all(0 <= seed < 2**64 for seed in seeds)


def test_batches_start_where_they_are_told_to():
    data = dataset()
    sampler = SeededBatchSampler(DefaultSampler(data, seed=0), 4)
    sampler.seed = 9
    sampler.begin(epoch=3)
    whole = list(sampler)
    assert [i.index for batch in whole for i in batch] == list(sampler.sampler) and len(whole) == len(sampler) == 2
    sampler.begin(epoch=3, start=1)
    assert list(sampler) == whole[1:]
    assert list(sampler) == whole  # only once
    sampler.begin(epoch=3, start=2)
    assert list(sampler) == []
    for epoch, seed in ((4, 9), (3, 8)):
        sampler.seed = seed
        sampler.begin(epoch)
        assert {i.seed for batch in sampler for i in batch}.isdisjoint(i.seed for batch in whole for i in batch)


def test_config_of_a_loader():
    cfg = dict(dataset=1, batch_size=2, drop_last=True, sampler=dict(type='DefaultSampler'))
    before = dict(cfg)
    out = seeded_dataloader(cfg)
    assert cfg == before and 'drop_last' not in out
    assert out['dataset'] == dict(type=SeededDataset, dataset=1)
    sampler = SeededBatchSampler(SequentialSampler(range(5)), 2, drop_last=out['batch_sampler']['drop_last'])
    assert type(sampler.batch_sampler) is BatchSampler and len(sampler) == 2
