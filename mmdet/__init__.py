"""Detection toolbox with Cross-Iteration Batch Normalization as a norm layer."""

from .version import __version__

__all__ = ['__version__']
