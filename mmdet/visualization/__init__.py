"""Drawing."""
from .draw import draw_instances
from .local_visualizer import DetLocalVisualizer

__all__ = ['DetLocalVisualizer', 'draw_instances']
