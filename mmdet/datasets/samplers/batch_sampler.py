"""Batches of images of alike shape."""

from collections.abc import Iterator

from mmengine.dataset import DefaultSampler
from torch.utils.data import BatchSampler, Sampler

from mmdet.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class AspectRatioBatchSampler(BatchSampler):
    """Makes batches of only upright or only lying images, which need less padding.

    The images' sizes are read from the annotations (``height``, ``width``); square ones count as lying. The last
    batches of an epoch take what is left of both kinds.

    Args:
        sampler: gives the indices, and has the data set as ``dataset``.
        batch_size: images in a batch.
        drop_last: leave out a last batch that is not full.

    Raises:
        ValueError: a batch size that is no positive integer. TypeError: a sampler that is none.

    Example:
        In a config; sampler and batch size are the data loader's::

            train_dataloader = dict(batch_size=2, batch_sampler=dict(type='AspectRatioBatchSampler'))
    """

    sampler: DefaultSampler  # or another that has its data set

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = False) -> None:
        if not isinstance(sampler, Sampler):
            raise TypeError(f'sampler should be an instance of ``Sampler``, got {sampler!r}')
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'batch_size should be a positive integer value, got {batch_size!r}')
        super().__init__(sampler, batch_size, drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        buckets: tuple[list[int], list[int]] = [], []
        for index in self.sampler:
            info = self.sampler.dataset.get_data_info(index)
            bucket = buckets[int(info['width'] < info['height'])]
            bucket.append(index)
            if len(bucket) == self.batch_size:
                yield bucket[:]
                bucket.clear()
        # What is left of both kinds fills the last batches: as many batches as __len__ says.
        rest = buckets[0] + buckets[1]
        for i in range(0, len(rest), self.batch_size):
            batch = rest[i : i + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch
