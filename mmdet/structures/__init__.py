"""Data structures."""
from .det_data_sample import DetDataSample, OptSampleList

__all__ = ['DetDataSample', 'OptSampleList']
