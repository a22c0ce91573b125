"""Masks: each operation on bitmaps and polygons gives the same picture, and the picture it should."""

import numpy as np
import pytest
import torch

from mmdet.structures.mask import BitmapMasks, PolygonMasks

SQUARES = [[np.array([10, 10, 30, 10, 30, 20, 10, 20.0])], [np.array([0, 0, 8, 0, 8, 6, 0, 6.0])]]


def pair(height=40, width=60):
    polygons = PolygonMasks(SQUARES, height, width)
    return polygons, polygons.to_bitmap()


def iou(a, b):
    a, b = a.to_ndarray() > 0, b.to_ndarray() > 0
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2))


@pytest.mark.parametrize(
    'change',
    [
        lambda m: m.flip('horizontal'),
        lambda m: m.flip('vertical'),
        lambda m: m.flip('diagonal'),
        lambda m: m.resize((80, 120)),
        lambda m: m.rescale((30, 20)),
        lambda m: m.pad((50, 70)),
        lambda m: m.crop(np.array([5, 2, 35, 30])),
        lambda m: m[np.array([1])],
        lambda m: m[[False, True]],
    ],
)
def test_bitmaps_and_polygons_agree(change):
    polygons, bitmaps = (change(masks) for masks in pair())
    assert (polygons.height, polygons.width, len(polygons)) == (bitmaps.height, bitmaps.width, len(bitmaps))
    assert (iou(polygons, bitmaps) > 0.8).all()


def test_pixels_are_where_they_belong():
    _, bitmaps = pair()
    flipped = bitmaps.flip('horizontal').masks
    assert np.array_equal(flipped, bitmaps.masks[:, :, ::-1])
    assert bitmaps.pad((50, 70)).masks[:, 40:].sum() == 0
    assert bitmaps.areas.tolist() == bitmaps.masks.reshape(2, -1).sum(1).tolist()
    torch.testing.assert_close(bitmaps.get_bboxes().tensor, pair()[0].get_bboxes().tensor, atol=1.01, rtol=0)
    np.testing.assert_allclose(pair()[0].areas, [200, 48])
    with pytest.raises(ValueError, match='flip'):
        bitmaps.flip('left')
    with pytest.raises(ValueError, match='height=3'):
        BitmapMasks(np.zeros((1, 4, 4)), 3, 4)


@pytest.mark.parametrize('kind', [0, 1])
def test_crop_and_resize_by_hand(kind):
    masks = pair()[kind]
    # The first square's left half and background beside it; the whole second one.
    boxes = np.array([[0, 10, 20, 20], [0, 0, 8, 6]], dtype=np.float32)
    out = masks.crop_and_resize(boxes, (10, 20), np.array([0, 1])).to_ndarray()
    assert out.shape == (2, 10, 20)
    assert out[0, :, :9].sum() == 0 and out[0, 1:-1, 11:].all() and out[1, 1:-1, 1:-1].all()
    assert len(masks.crop_and_resize(np.zeros((0, 4)), (28, 28), np.zeros(0, dtype=int))) == 0


def test_crop_and_resize_reads_each_mask_once():
    _, bitmaps = pair()
    boxes = np.array([[10, 10, 30, 20], [0, 0, 8, 6], [10, 10, 30, 20]], dtype=np.float32)
    out = bitmaps.crop_and_resize(boxes, (8, 8), np.array([0, 1, 0])).masks
    assert out[0].mean() > 0.9 and out[1].mean() > 0.7 and np.array_equal(out[0], out[2])


def test_cat():
    for masks in pair():
        assert np.array_equal(type(masks).cat([masks, masks[[1]]]).to_ndarray(), masks.to_ndarray()[[0, 1, 1]])


def test_nothing():
    for masks in (PolygonMasks([], 4, 5), BitmapMasks([], 4, 5)):
        assert masks.flip().resize((8, 10)).pad((9, 12)).to_ndarray().shape == (0, 9, 12)
