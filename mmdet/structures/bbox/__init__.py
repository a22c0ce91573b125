"""Boxes: functions on tensors, and boxes as objects for transforms."""

from .base_boxes import BaseBoxes
from .bbox_overlaps import bbox_overlaps
from .box_type import autocast_box_type, convert_box_type, get_box_type, register_box, register_box_converter
from .horizontal_boxes import HorizontalBoxes
from .transforms import bbox2roi, bbox_project, clip_boxes, get_box_tensor, scale_boxes

__all__ = [
    'BaseBoxes',
    'HorizontalBoxes',
    'autocast_box_type',
    'bbox2roi',
    'bbox_overlaps',
    'bbox_project',
    'clip_boxes',
    'convert_box_type',
    'get_box_tensor',
    'get_box_type',
    'register_box',
    'register_box_converter',
    'scale_boxes',
]
