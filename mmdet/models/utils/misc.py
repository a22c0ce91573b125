"""Between images and levels of a batch, by the names of mmdetection 3.x."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor


def multi_apply(func: Callable[..., tuple], *args, **kwargs) -> tuple[list, ...]:
    """Call a function once for each place of some sequences, and put its first results together, its second, ....

    Args:
        func: returns a tuple.
        args: sequences of one length; the i-th call takes the i-th of each.
        kwargs: of every call.

    Returns:
        A list for each number of the tuple.

    Example:
        >>> multi_apply(divmod, [7, 9], [2, 4])
        ([3, 2], [1, 1])
    """
    return tuple(map(list, zip(*map(partial(func, **kwargs), *args))))


def unpack_gt_instances(batch_data_samples: Sequence) -> tuple[list, list, list[dict]]:
    """Return of DetDataSamples the ``gt_instances``, the ``ignored_instances`` (None where there are none) and the
    metainfo, a list each."""
    return (
        [sample.gt_instances for sample in batch_data_samples],
        [sample.get('ignored_instances') for sample in batch_data_samples],
        [sample.metainfo for sample in batch_data_samples],
    )


def images_to_levels(target: Sequence[Tensor], num_levels: Sequence[int]) -> list[Tensor]:
    """Return tensors of images, over all levels, as tensors of levels, over all images.

    Args:
        target: of each of N images (A, ...).
        num_levels: the numbers A_l of each level, which add up to A.

    Returns:
        Of each level (N, A_l, ...).
    """
    return list(torch.stack(list(target)).split(list(num_levels), 1))


def select_single_mlvl(mlvl_tensors: Sequence[Tensor], batch_id: int, detach: bool = True) -> list[Tensor]:
    """Return one image's part of each level's tensor (N, ...), by default without gradient."""
    own = [level[batch_id] for level in mlvl_tensors]
    return [level.detach() for level in own] if detach else own
