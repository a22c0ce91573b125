"""Evaluation."""

from .coco_metric import CocoMetric, DumpDetResults

__all__ = ['CocoMetric', 'DumpDetResults']
