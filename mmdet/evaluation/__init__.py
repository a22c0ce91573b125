"""Evaluation."""

from .coco_metric import CocoMetric
from .dump import DumpDetResults

__all__ = ['CocoMetric', 'DumpDetResults']
