"""Detectors."""

from .base import BaseDetector
from .two_stage import FasterRCNN, MaskRCNN, TwoStageDetector

__all__ = ['BaseDetector', 'FasterRCNN', 'MaskRCNN', 'TwoStageDetector']
