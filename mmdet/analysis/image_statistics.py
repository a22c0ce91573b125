"""Mean and spread of images, and how much of the spread lies between one image and the next."""

from collections.abc import Iterable
from typing import NamedTuple

import torch


class ImageStatistics(NamedTuple):
    """Of each channel, shape (C,) float64, in the images' unit; every image weighs the same."""

    mean: torch.Tensor
    std: torch.Tensor
    #: share of the variance that the images' own means make up, 0 to 1; 0 where a channel is constant
    between: torch.Tensor
    #: number of images
    images: int


def image_statistics(images: Iterable[torch.Tensor]) -> ImageStatistics:
    """Statistics of images of shape (C, H, W), of any sizes.

    By the law of total variance the variance of a channel is the mean of the images' variances plus the variance of
    their means. The second part's share says how little one image stands for all: what a norm that takes its
    statistics from one image removes in training, and running averages do not in evaluation.

    Raises:
        ValueError: no images, or images that differ in their number of channels.
    """
    means, variances = [], []
    for image in images:
        values = image.flatten(1).double()
        if means and len(values) != len(means[0]):
            raise ValueError(f'image {len(means)} has {len(values)} channels, those before it {len(means[0])}')
        means.append(values.mean(1))
        variances.append(values.var(1, correction=0))
    if not means:
        raise ValueError('there are no images to take statistics of')
    total, share = between_share(torch.stack(means), torch.stack(variances))
    return ImageStatistics(torch.stack(means).mean(0), total.sqrt(), share, len(means))


def between_share(means: torch.Tensor, variances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Total variance, and the share of it between images, (C,), by the images' means and variances, (N, C)."""
    between = means.var(0, correction=0)
    total = variances.mean(0) + between
    return total, torch.where(total > 0, between / total, torch.zeros_like(total))
