"""Mask operations against mmcv, torchvision and pycocotools."""

import mmcv
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from torchvision.ops import roi_align

from mmdet.structures.mask import BitmapMasks, PolygonMasks

TRIANGLE = np.array([2.0, 3.0, 17.0, 4.0, 8.0, 13.0])
SQUARE = np.array([20.0, 6.0, 28.0, 6.0, 28.0, 14.0, 20.0, 14.0])


def random_bitmaps(number=5, height=24, width=40, seed=0):
    masks = (np.random.default_rng(seed).random((number, height, width)) > 0.5).astype(np.uint8)
    return BitmapMasks(masks, height, width)


def polygons():
    return PolygonMasks([[TRIANGLE], [SQUARE, TRIANGLE + 9], [SQUARE]], 24, 40)


@pytest.mark.parametrize('make', [random_bitmaps, polygons])
@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_flip_twice_gives_the_same(make, direction):
    masks = make()
    flipped = masks.flip(direction)
    assert not np.array_equal(flipped.to_ndarray(), masks.to_ndarray())
    assert np.array_equal(flipped.flip(direction).to_ndarray(), masks.to_ndarray())


@pytest.mark.parametrize('make', [random_bitmaps, polygons])
def test_indexing_as_of_an_array(make):
    masks = make()
    flags = np.arange(len(masks)) == 1
    for index in (
        1,
        -1,
        np.array([2, 0]),
        torch.tensor([2, 0]),
        slice(1, 3),
        [0, 2],
        np.array([], dtype=int),
        flags,
        torch.from_numpy(flags),
    ):
        kept = np.arange(len(masks))[index].reshape(-1)
        chosen = masks[index]
        assert len(chosen) == len(kept) and (chosen.height, chosen.width) == (24, 40)
        assert np.array_equal(chosen.to_ndarray(), masks.to_ndarray()[kept])


def test_bitmaps_are_resized_as_by_mmcv():
    masks = random_bitmaps()
    out = masks.rescale((60, 100))
    assert (out.height, out.width) == (60, 100)  # a factor of 2.5
    for one, mask in zip(out.masks, masks.masks):
        assert np.array_equal(one, mmcv.imresize(mask, (100, 60), interpolation='nearest'))
    assert np.array_equal(masks.crop(np.array([3, 4, 13, 9])).masks, masks.masks[:, 4:9, 3:13])


def test_points_of_polygons():
    masks = polygons()
    assert np.allclose(masks.resize((48, 120)).masks[2][0], [60, 12, 84, 12, 84, 28, 60, 28])
    assert np.array_equal(masks.flip('horizontal').masks[2][0], [20, 6, 12, 6, 12, 14, 20, 14])
    assert np.array_equal(masks.crop(np.array([18, 4, 25, 20])).masks[2][0], [2, 2, 7, 2, 7, 10, 2, 10])
    assert masks.areas.tolist() == [72, 136, 64]


def test_to_bitmap_is_pycocotools():
    masks = polygons()
    for mask, parts in zip(masks.to_ndarray(), masks.masks):
        rle = coco_mask.merge(coco_mask.frPyObjects([p.tolist() for p in parts], 24, 40))
        assert np.array_equal(mask, coco_mask.decode(rle))
    assert masks.to_tensor(torch.float32, 'cpu').shape == (3, 24, 40)


def test_bitmap_crop_and_resize_is_roi_align():
    masks = random_bitmaps(number=9)
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, [30, 18], (20, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 12, (20, 2))], 1).astype(np.float32)
    inds = rng.integers(0, 6, 20)
    out = masks.crop_and_resize(boxes, (7, 5), inds)
    for i in range(20):
        mean = roi_align(
            torch.from_numpy(masks.masks[inds[i]]).double()[None, None],
            [torch.from_numpy(boxes[i : i + 1]).double()],
            (7, 5),
            1.0,
            0,
            True,
        )[0, 0]
        sure = (mean - 0.5).abs() > 1e-5  # rounding decides a tie either way
        assert torch.equal(torch.from_numpy(out.masks[i]).bool()[sure], (mean >= 0.5)[sure]) and sure.sum() > 15


def test_crop_and_resize_to_pixels_is_the_mask():
    mask = np.zeros((1, 8, 8), dtype=np.uint8)
    mask[0, 2:6, 2:4] = 1
    out = BitmapMasks(mask, 8, 8).crop_and_resize(np.array([[0, 0, 8, 8]], dtype=np.float32), (8, 8), np.array([0]))
    assert np.array_equal(out.masks, mask)


def test_the_part_of_a_polygon_outside_the_box_is_cut():
    boxes = np.array([[20, 6, 28, 14], [18, 4, 26, 12]], dtype=np.float32)
    out = polygons().crop_and_resize(boxes, (16, 16), np.array([2, 2])).masks
    assert out[0].all()
    assert out[1][4:, 4:].all() and out[1].sum() == 144


def test_bitmaps_and_polygons_give_alike_targets():
    masks = polygons().resize((240, 400))
    boxes, inds = masks.get_bboxes().tensor.numpy(), np.arange(3)
    drawn = masks.crop_and_resize(boxes, (28, 28), inds).masks
    averaged = masks.to_bitmap().crop_and_resize(boxes, (28, 28), inds).masks
    assert (drawn != averaged).mean() < 0.06


def test_bounding_boxes():
    assert polygons().get_bboxes().tensor[0].tolist() == [2, 3, 17, 13]
    bitmap = np.zeros((2, 24, 40), dtype=np.uint8)
    bitmap[0, 5:9, 3:30] = 1
    assert BitmapMasks(bitmap, 24, 40).get_bboxes().tensor.tolist() == [[3, 5, 30, 9], [0, 0, 0, 0]]
