"""What transforms have in common."""

import inspect

import numpy as np
from mmcv.transforms import BaseTransform


def record_homography(results: dict, matrix: list) -> None:
    """Keep in ``results['homography_matrix']``, (3, 3) float32, how the image's points moved from the first on.

    Args:
        matrix: of this transform, (3, 3).
    """
    own = np.array(matrix, dtype=np.float32)
    before = results.get('homography_matrix')
    results['homography_matrix'] = own if before is None else own @ before


class DetTransform(BaseTransform):
    """Shows its arguments, as mmcv's transforms do."""

    def __repr__(self) -> str:
        names = inspect.signature(type(self).__init__).parameters
        return f'{type(self).__name__}({", ".join(f"{n}={getattr(self, n)}" for n in names if hasattr(self, n))})'
