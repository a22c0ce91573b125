"""Drawing."""

from .display import check_display
from .draw import draw_instances, readable_factor
from .local_visualizer import DetLocalVisualizer
from .palette import get_palette

__all__ = ['DetLocalVisualizer', 'check_display', 'draw_instances', 'get_palette', 'readable_factor']
