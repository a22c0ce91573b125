"""Models for other programs: ONNX, TorchScript and torch.export, compared with the model they were made of."""

from .check import Difference, compare
from .folding import fold_norms
from .formats import FORMATS, load_exported, write_exported
from .graph import DetectorGraph

__all__ = ['FORMATS', 'DetectorGraph', 'Difference', 'compare', 'fold_norms', 'load_exported', 'write_exported']
