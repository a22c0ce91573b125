"""Which priors of an image the loss looks at."""

from .ohem_sampler import OHEMSampler
from .random_sampler import PseudoSampler, RandomSampler, SamplingResult

__all__ = ['OHEMSampler', 'PseudoSampler', 'RandomSampler', 'SamplingResult']
