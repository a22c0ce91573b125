"""An array in the place of a file gives the same results."""

import cv2
import numpy as np
from mmcv.transforms import Compose

from mmdet.datasets.transforms import LoadImageFromFile, LoadImageFromNDArray


def test_array_and_file_give_the_same(tmp_path):
    image = np.random.RandomState(0).randint(0, 255, (20, 30, 3), dtype=np.uint8)
    path = str(tmp_path / 'x.png')
    cv2.imwrite(path, image)
    for floats in (False, True):
        by_file = LoadImageFromFile(to_float32=floats)(dict(img_path=path))
        by_array = LoadImageFromNDArray(to_float32=floats, backend_args=None)(dict(img=image))
        assert by_array.pop('img_path') is None and by_file.pop('img_path') == path
        assert by_array['img'].dtype == by_file['img'].dtype and (by_array.pop('img') == by_file.pop('img')).all()
        assert by_array == by_file


def test_a_view_with_reversed_channels_can_be_resized():
    image = np.random.RandomState(0).randint(0, 255, (20, 30, 3), dtype=np.uint8)
    steps = Compose([dict(type='mmdet.LoadImageFromNDArray'), dict(type='mmdet.Resize', scale=(60, 60))])
    assert (steps(dict(img=image[..., ::-1]))['img'] == steps(dict(img=image))['img'][..., ::-1]).all()
