"""Transforms: polygons, drawn scales, kinds of masks, images without objects."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch

from mmdet.datasets.transforms.loading import decode_mask
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks, PolygonMasks

BOX = (10, 6, 30, 24)
POLYGON = [10, 6, 30, 6, 30, 24, 10, 24]


def build(type, **kwargs):
    return TRANSFORMS.build(dict(type=type, **kwargs))


def results(**more):
    """An image whose object is white, its box and its mask."""
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    image[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    mask = (image[None, ..., 0] > 0).astype(np.uint8)
    return dict(
        dict(
            img=image,
            img_shape=(48, 64),
            ori_shape=(48, 64),
            img_path='a.png',
            img_id=3,
            gt_bboxes=np.array([BOX], dtype=np.float32),
            gt_bboxes_labels=np.array([2]),
            gt_ignore_flags=np.array([False]),
            gt_masks=BitmapMasks(mask, 48, 64),
        ),
        **more,
    )


def assert_aligned(out):
    """The box is around the white part and the mask on it."""
    assert np.array_equal(out['gt_masks'].to_ndarray()[0] > 0, out['img'][..., 0] > 127)
    assert np.allclose(out['gt_masks'].get_bboxes().tensor.numpy(), out['gt_bboxes'])
    assert out['gt_bboxes'].dtype == torch.float32 and out['img_shape'] == out['img'].shape[:2]


def test_resize_to_a_size():
    out = build('Resize', scale=(128, 144), keep_ratio=False)(results())
    assert out['img_shape'] == (144, 128) and out['scale_factor'] == (2.0, 3.0)
    assert np.allclose(out['gt_bboxes'], [[20, 18, 60, 72]])


def test_resize_uses_the_sizes_that_came_out():
    """480 x 641 within 1333 x 800 has a height factor other than its width factor."""
    data = results(img=np.zeros((480, 641, 3), np.uint8), gt_masks=BitmapMasks([], 480, 641))
    out = build('Resize', scale=(1333, 800), keep_ratio=True)(data)
    height, width = out['img_shape']
    assert (height, width) == (800, 1068)
    assert out['scale_factor'] == (width / 641, height / 480)


@pytest.mark.parametrize(
    'direction, box', [('horizontal', [34, 6, 54, 24]), ('vertical', [10, 24, 30, 42]), ('diagonal', [34, 24, 54, 42])]
)
def test_flip(direction, box):
    out = build('RandomFlip', prob=1.0, direction=direction)(results())
    assert out['gt_bboxes'].tensor.tolist() == [box] and out['flip'] and out['flip_direction'] == direction
    assert_aligned(out)
    polygons = PolygonMasks([[np.array(POLYGON)]], 48, 64)
    out = build('RandomFlip', prob=1.0, direction=direction)(results(gt_masks=polygons))
    assert out['gt_masks'].get_bboxes().tensor.tolist() == [box]


def test_random_choice_resize_draws_each_scale_and_resizes_masks():
    np.random.seed(0)
    transform = build('RandomChoiceResize', scales=[(128, 96), (32, 24)], keep_ratio=True)
    shapes = set()
    for _ in range(20):
        out = transform(results())
        shapes.add(out['img_shape'])
        assert_aligned(out)
    assert shapes == {(96, 128), (24, 32)}


def test_random_resize_stays_in_range():
    np.random.seed(0)
    transform = build('RandomResize', scale=(64, 48), ratio_range=(0.5, 2.0), keep_ratio=True)
    widths = []
    for _ in range(30):
        out = transform(results())
        widths.append(out['img_shape'][1])
        assert out['gt_masks'].to_ndarray().shape[1:] == out['img_shape']
        assert np.allclose(out['gt_bboxes'], np.array([BOX]) * np.tile(out['scale_factor'], 2), atol=1e-4)
    assert 32 <= min(widths) < 48 and 96 < max(widths) <= 128


def loaded(masks, **kwargs):
    instances = [dict(bbox=list(BOX), bbox_label=i, mask=mask, ignore_flag=0) for i, mask in enumerate(masks)]
    return build('LoadAnnotations', with_mask=True, **kwargs)(
        dict(instances=instances, ori_shape=(48, 64), img_path='b.png')
    )


def test_masks_of_all_kinds_are_the_same():
    bitmap = np.zeros((48, 64), dtype=np.uint8, order='F')
    bitmap[6:24, 10:30] = 1
    compressed = coco_mask.encode(bitmap)
    flat = bitmap.reshape(-1, order='F')
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])).tolist()
    kinds = [
        [POLYGON],
        compressed,
        dict(compressed, counts=compressed['counts'].decode()),
        dict(size=[48, 64], counts=runs),
    ]
    masks = loaded(kinds)['gt_masks']
    assert all(np.array_equal(mask, bitmap) for mask in masks.masks)
    assert np.array_equal(decode_mask(None, 48, 64), np.zeros((48, 64)))


def test_an_object_without_a_mask_is_ignored():
    out = loaded([[POLYGON], None])
    assert out['gt_ignore_flags'].tolist() == [False, True] and out['gt_masks'].areas[1] == 0


def test_polygons_are_kept():
    out = loaded([[POLYGON], None], poly2mask=False)['gt_masks']
    assert isinstance(out, PolygonMasks) and out.get_bboxes().tensor[0].tolist() == list(BOX)
    with pytest.raises(ValueError, match='b.png.*poly2mask'):
        loaded([dict(size=[48, 64], counts=[3072])], poly2mask=False)


def test_a_mask_of_another_size_names_the_image():
    with pytest.raises(ValueError, match=r'b.png.*\[64, 48\]'):
        loaded([dict(size=[64, 48], counts=[3072])])


def test_no_objects():
    out = build('LoadAnnotations', with_mask=True)(dict(instances=[], ori_shape=(48, 64), img=results()['img']))
    assert out['gt_bboxes'].shape == (0, 4) and len(out['gt_masks']) == 0
    out['img_shape'] = (48, 64)
    out = build('RandomFlip', prob=1.0)(build('Resize', scale=(32, 24), keep_ratio=True)(out))
    sample = build('PackDetInputs')(out)['data_samples']
    assert len(sample.gt_instances) == 0 and sample.gt_instances.labels.dtype == torch.int64


def test_pack():
    data = results(
        gt_bboxes=np.array([BOX, (1, 2, 3, 4)], dtype=np.float32),
        gt_bboxes_labels=np.array([2, 5]),
        gt_ignore_flags=np.array([False, True]),
    )
    data['gt_masks'] = data['gt_masks'][[0, 0]]
    out = build('PackDetInputs', meta_keys=('img_id', 'ori_shape', 'flip'))(data)
    assert out['inputs'].dtype == torch.uint8 and out['inputs'].shape == (3, 48, 64)
    sample = out['data_samples']
    assert sample.gt_instances.labels.tolist() == [2] and sample.ignored_instances.labels.tolist() == [5]
    assert sample.gt_instances.bboxes.tolist() == [list(BOX)] and len(sample.gt_instances.masks) == 1
    assert sample.metainfo == dict(img_id=3, ori_shape=(48, 64))
