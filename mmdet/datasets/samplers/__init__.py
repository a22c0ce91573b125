"""What chooses the images of a batch."""

from .batch_sampler import AspectRatioBatchSampler

__all__ = ['AspectRatioBatchSampler']
