"""Transforms move image, boxes and masks together."""

import numpy as np
import pytest

from mmdet.datasets.transforms import (
    FilterAnnotations,
    LoadImageFromFile,
    Pad,
    RandomChoiceResize,
    RandomFlip,
    RandomResize,
    Resize,
)
from mmdet.structures.mask import BitmapMasks


def results(height=40, width=60):
    """A bright rectangle on black, its box and its mask."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[8:20, 10:34] = 200
    mask = (image[..., 0] > 100).astype(np.uint8)
    return dict(
        img=image,
        img_shape=(height, width),
        ori_shape=(height, width),
        gt_bboxes=np.array([[10, 8, 34, 20]], dtype=np.float32),
        gt_bboxes_labels=np.array([1]),
        gt_ignore_flags=np.array([False]),
        gt_masks=BitmapMasks([mask], height, width),
    )


def box_of(array):
    ys, xs = np.nonzero(array > array.max() / 2)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def check(out):
    """The box is where the bright pixels and the mask are."""
    np.testing.assert_allclose(np.asarray(out['gt_bboxes'])[0], box_of(out['img'][..., 0]), atol=1)
    np.testing.assert_allclose(np.asarray(out['gt_bboxes'])[0], box_of(out['gt_masks'].masks[0]), atol=1)
    assert out['gt_masks'].masks.shape[1:] == out['img'].shape[:2]
    assert np.asarray(out['gt_bboxes']).dtype == np.float32


@pytest.mark.parametrize(
    'transform, shape',
    [
        (Resize(scale=(120, 90), keep_ratio=True), (80, 120)),
        (Resize(scale=(90, 60), keep_ratio=True), (60, 90)),
        (Resize(scale=(30, 50)), (50, 30)),
        (Resize(scale_factor=2.0), (80, 120)),
        (RandomFlip(prob=1.0), (40, 60)),
        (RandomFlip(prob=1.0, direction='vertical'), (40, 60)),
        (RandomFlip(prob=1.0, direction='diagonal'), (40, 60)),
        (RandomFlip(prob=0.0), (40, 60)),
        (Pad(size_divisor=32), (64, 64)),
        (RandomChoiceResize(scales=[(90, 70)], keep_ratio=True), (60, 90)),
        (RandomResize(scale=[(120, 90), (120, 90)], keep_ratio=True), (80, 120)),
    ],
)
def test_all_move_together(transform, shape):
    out = transform(results())
    assert out['img'].shape[:2] == shape
    check(out)


def test_resize_says_its_scale_and_clips():
    data = results()
    data['gt_bboxes'] = np.array([[10, 8, 90, 20]], dtype=np.float32)
    out = Resize(scale=(120, 90), keep_ratio=True)(data)
    assert tuple(out['scale_factor']) == (2.0, 2.0) and out['img_shape'] == (80, 120)
    assert out['gt_bboxes'].tensor.tolist() == [[20, 16, 120, 40]]


def test_random_choice_takes_all_scales():
    transform = RandomChoiceResize(scales=[(60, 40), (120, 80)], keep_ratio=True)
    assert {transform(results())['img'].shape[0] for _ in range(40)} == {40, 80}


def test_filter_annotations():
    data = results()
    data['gt_bboxes'] = np.array([[10, 8, 34, 20], [5, 5, 5.5, 30]], dtype=np.float32)
    data.update(gt_bboxes_labels=np.array([1, 2]), gt_ignore_flags=np.array([False, True]))
    data['gt_masks'] = BitmapMasks(np.repeat(data['gt_masks'].masks, 2, 0), 40, 60)
    out = FilterAnnotations()(data)
    assert out['gt_bboxes_labels'].tolist() == [1] and len(out['gt_masks']) == 1
    assert FilterAnnotations(min_gt_bbox_wh=(50, 50))(dict(out)) is None
    assert len(FilterAnnotations(min_gt_bbox_wh=(50, 50), keep_empty=False)(out)['gt_bboxes']) == 0


def test_images_that_cannot_be_read(tmp_path):
    load = LoadImageFromFile()
    with pytest.raises(FileNotFoundError, match='nowhere.jpg.*img_id 5'):
        load(dict(img_path=str(tmp_path / 'nowhere.jpg'), img_id=5))
    (tmp_path / 'bad.jpg').write_bytes(b'no image')
    with pytest.raises(ValueError, match='bad.jpg.*image'):
        load(dict(img_path=str(tmp_path / 'bad.jpg')))
