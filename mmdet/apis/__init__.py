"""A trained detector in a few lines: :func:`init_detector`, :func:`inference_detector`, :class:`DetInferencer`."""

from .det_inferencer import DetInferencer
from .hub import from_pretrained, push_to_hub, save_pretrained
from .inference import inference_detector, init_detector

__all__ = ['DetInferencer', 'from_pretrained', 'inference_detector', 'init_detector', 'push_to_hub', 'save_pretrained']
