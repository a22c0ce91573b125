"""Which prior is responsible for which object."""

from .max_iou_assigner import AssignResult, BaseAssigner, BboxOverlaps2D, MaxIoUAssigner

__all__ = ['AssignResult', 'BaseAssigner', 'BboxOverlaps2D', 'MaxIoUAssigner']
