"""Which priors of an image the loss looks at."""

from .ohem_sampler import OHEMSampler
from .random_sampler import BaseSampler, PseudoSampler, RandomSampler, SamplingResult, sample_proposals

__all__ = ['BaseSampler', 'OHEMSampler', 'PseudoSampler', 'RandomSampler', 'SamplingResult', 'sample_proposals']
