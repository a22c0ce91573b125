"""Runner and loops whose runs can be killed and resumed bit for bit."""

from .distributed import CPUDistributedDataParallel
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop
from .runner import DetRunner
from .val_loop import ValLoop

__all__ = ['CPUDistributedDataParallel', 'DetRunner', 'EpochBasedTrainLoop', 'IterBasedTrainLoop', 'ValLoop']
