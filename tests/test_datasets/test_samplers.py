"""AspectRatioBatchSampler."""

import pytest
from torch.utils.data import SequentialSampler

from mmdet.datasets import AspectRatioBatchSampler


class Sized(list):
    def get_data_info(self, index):
        return dict(zip(('width', 'height'), self[index]))

    def __getitem__(self, index):
        return list.__getitem__(self, index)


class OfDataset(SequentialSampler):
    def __init__(self, dataset):
        super().__init__(dataset)
        self.dataset = dataset


WIDE, HIGH = (30, 20), (20, 30)
DATA = Sized([WIDE, HIGH, WIDE, WIDE, HIGH, HIGH, HIGH, (20, 20), WIDE, HIGH, WIDE])


@pytest.mark.parametrize('batch_size', [1, 2, 3, 4, 20])
@pytest.mark.parametrize('drop_last', [False, True])
def test_batches(batch_size, drop_last):
    sampler = AspectRatioBatchSampler(OfDataset(DATA), batch_size, drop_last)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    seen = sum(batches, [])
    assert len(set(seen)) == len(seen)
    assert len(seen) == (len(DATA) // batch_size * batch_size if drop_last else len(DATA))
    mixed = [b for b in batches if len({DATA[i] == HIGH for i in b}) > 1]
    # Only what is left over of both kinds may share a batch.
    assert len(mixed) <= 1 and (not mixed or mixed[0] in batches[-2:])
    assert list(sampler) == batches


@pytest.mark.parametrize('batch_size', [0, -1, 1.5, None])
def test_batch_size_is_checked(batch_size):
    with pytest.raises(ValueError, match='batch_size'):
        AspectRatioBatchSampler(OfDataset(DATA), batch_size)
