"""Drawing."""
from .draw import draw_instances
from .local_visualizer import DetLocalVisualizer
from .palette import get_palette

__all__ = ['DetLocalVisualizer', 'draw_instances', 'get_palette']
