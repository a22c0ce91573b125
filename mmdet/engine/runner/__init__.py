"""Runner and loops whose runs can be killed and resumed bit for bit."""

from .distributed import CPUDistributedDataParallel
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop
from .runner import DetRunner

__all__ = ['CPUDistributedDataParallel', 'DetRunner', 'EpochBasedTrainLoop', 'IterBasedTrainLoop', 'ValLoop']
