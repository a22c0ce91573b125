"""Detection toolbox with Cross-Iteration Batch Normalization as a norm layer."""

from .mmdetection import paths
from .version import __version__

paths.install()

__all__ = ['__version__']
