"""Which prior is responsible for which object."""

from .max_iou_assigner import AssignResult, BboxOverlaps2D, MaxIoUAssigner

__all__ = ['AssignResult', 'BboxOverlaps2D', 'MaxIoUAssigner']
