"""What transforms have in common."""

import inspect

from mmcv.transforms import BaseTransform


class DetTransform(BaseTransform):
    """Shows its arguments, as mmcv's transforms do."""

    def __repr__(self) -> str:
        names = inspect.signature(type(self).__init__).parameters
        return f'{type(self).__name__}({", ".join(f"{n}={getattr(self, n)}" for n in names if hasattr(self, n))})'
