"""Runner and loops whose runs can be killed and resumed bit for bit."""
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop
from .runner import DetRunner

__all__ = ['DetRunner', 'EpochBasedTrainLoop', 'IterBasedTrainLoop', 'ValLoop']
