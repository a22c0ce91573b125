"""Record mmdetection 3.x's answers to the cases of tests/reference/mmdet3_parts.py.

In an environment that has mmdetection 3.x and not this project (recorded with onedl-mmdetection 3.5.1, torch 2.14.1,
torchvision's RoIAlign and NMS in place of the compiled operators), from a folder outside this checkout:

    python CHECKOUT/tests/data/record_parts.py

writes mmdet3_parts.npz beside this file.
"""
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from mmengine.registry import init_default_scope  # noqa: E402
from reference import mmdet3_parts as parts  # noqa: E402

import mmdet  # noqa: E402

if __name__ == '__main__':
    if Path(mmdet.__file__).is_relative_to(FOLDER.parents[1]):
        sys.exit(f'{mmdet.__file__}: this project must not record its own answers; run from another folder')
    init_default_scope('mmdet')
    np.savez_compressed(FOLDER / 'mmdet3_parts.npz', **parts.pack({
        f'{group}.{key}': value for group in parts.GROUPS for key, value in parts.answers(group).items()}))
