"""A trained detector in a few lines: :func:`init_detector`, :func:`inference_detector`, :class:`DetInferencer`."""

from .det_inferencer import DetInferencer
from .inference import inference_detector, init_detector

__all__ = ['DetInferencer', 'inference_detector', 'init_detector']
