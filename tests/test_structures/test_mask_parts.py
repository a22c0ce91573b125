"""Masks that become pixels only where they are wanted, against whole images of pixels."""

import pickle

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from torchvision.ops import roi_align

from mmdet.structures.mask import BitmapMasks, MaskParts, draw_part, polygons_to_bitmap, structures
from mmdet.structures.mask.parts import nearest


def polygon(generator, height, width, hundredths=True):
    """A few points, some outside of the image."""
    points = generator.uniform(-5, 5, (generator.integers(3, 9), 2)) + generator.uniform(0, 1, 2) * [width, height]
    points *= generator.choice([0.3, 1, 1.1])
    return (points.round(2) if hundredths else points).ravel().tolist()


def masks_of(generator, number, height, width):
    """Polygons, compressed and plain run-length encodings, and None."""
    found = []
    for i in range(number):
        mask = [polygon(generator, height, width, i % 2) for _ in range(generator.integers(1, 4))]
        kind = generator.integers(0, 5)
        if kind in (0, 1):
            pixels = polygons_to_bitmap(mask, height, width)
            mask = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
            if kind:
                flat = pixels.ravel(order='F').astype(int)
                counts = np.diff([0, *np.flatnonzero(np.diff(flat)) + 1, len(flat)]).tolist()
                mask = dict(size=[height, width], counts=[0, *counts] if flat[0] else counts)
        found.append(mask if kind < 4 else None)
    return found


def both(generator, number=5):
    """The same masks, as parts and as pixels."""
    height, width = generator.integers(1, 60, 2).tolist()
    masks = masks_of(generator, number, height, width)
    pixels = []
    for mask in masks:
        if isinstance(mask, dict):
            mask = coco_mask.frPyObjects(mask, height, width) if isinstance(mask['counts'], list) else mask
            pixels.append(coco_mask.decode(mask))
        else:
            pixels.append(polygons_to_bitmap(mask or [], height, width))
    parts = MaskParts([draw_part(mask, height, width) for mask in masks], np.arange(height), np.arange(width))
    return BitmapMasks(parts, height, width), BitmapMasks(pixels, height, width)


def test_a_part_is_what_pycocotools_draws():
    generator = np.random.default_rng(0)
    for _ in range(400):
        ours, plain = both(generator)
        np.testing.assert_array_equal(ours.masks, plain.masks)


def change(masks, generator, kind, seed):
    generator = np.random.default_rng(seed)
    height, width = masks.height, masks.width
    if kind == 'resize':
        return masks.resize(
            tuple((np.array([height, width]) * generator.uniform(0.3, 3, 2)).astype(int).clip(1).tolist())
        )
    if kind == 'rescale':
        return masks.rescale((int(generator.integers(10, 90)), int(generator.integers(10, 90))))
    if kind == 'flip':
        return masks.flip(str(generator.choice(['horizontal', 'vertical', 'diagonal'])))
    if kind == 'pad':
        return masks.pad((height + int(generator.integers(0, 9)), width + int(generator.integers(0, 9))))
    if kind == 'crop':
        x, y = generator.uniform(0, 1, 2) * [width - 1, height - 1]
        return masks.crop(np.array([x, y, *(generator.uniform(0, 1, 2) * [width, height] + [x, y])]))
    return masks[generator.permutation(len(masks))[: max(len(masks) - 1, 1)]]


@pytest.mark.parametrize('seed', range(60))
def test_any_sequence_of_operations(seed):
    generator = np.random.default_rng(seed)
    ours, plain = both(generator)
    for step in range(generator.integers(1, 7)):
        kind = str(generator.choice(['resize', 'rescale', 'flip', 'pad', 'crop', 'choose']))
        ours, plain = (change(masks, generator, kind, seed * 100 + step) for masks in (ours, plain))
        assert (len(ours), ours.height, ours.width) == (len(plain), plain.height, plain.width)
        assert ours._parts is not None  # nothing was drawn for it
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ours)).masks, plain.masks)
    np.testing.assert_array_equal(ours.areas, plain.areas)
    assert ours._parts is None and ours.masks is ours.masks  # drawn once


@pytest.mark.parametrize('seed', range(20))
def test_targets_of_a_mask_head_are_those_of_whole_images(seed, monkeypatch):
    """To the bit, also where a mean is a half but for rounding; of boxes within the image, at its border and beyond."""
    generator = np.random.default_rng(seed)
    ours, plain = both(generator)
    ours, plain = (masks.resize((70, 90)).pad((80, 96)) for masks in (ours, plain))
    corner = generator.uniform(-5, 90, (30, 2)) if seed % 2 else generator.uniform(0, 60, (30, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(1, 30, (30, 2))], 1).astype(np.float32)
    boxes[:3] = [[0, 0, 96, 80], [70, 60, 96, 80], [0, 0, 3, 3]]
    boxes[3:20] = boxes[3:20].round()
    if not seed % 2:
        boxes = boxes.clip(0, [96, 80, 96, 80])
    which = generator.integers(0, 5, 30)
    rows = torch.from_numpy(np.concatenate([which[:, None], boxes], 1)).float()
    want = roi_align(torch.from_numpy(plain.masks).float()[:, None], rows, (14, 9), 1.0, -1, True)[:, 0] >= 0.5
    for drawn in (1, 2 * 80 * 96, 1 << 22):
        monkeypatch.setattr(structures, 'DRAWN', drawn)
        for masks in (ours, plain):
            assert torch.equal(masks.crop_to_tensor(boxes, (14, 9), which), want)
    assert ours._parts is not None


def test_targets_where_half_of_a_cell_is_set():
    """A rectangle, and boxes whose cells its sides halve: a mean of a half comes out above, or below, by rounding."""
    generator = np.random.default_rng(0)
    masks = np.zeros((1, 900, 900), dtype=np.uint8)
    masks[:, 600:821, 633:889] = 1
    half, before = generator.uniform(1, 4, 200), generator.integers(2, 20, 200)
    left, top = 633 - half * (2 * before + 1), np.full(200, 650)
    boxes = np.stack([left, top, left + 56 * half, top + 100], 1).astype(np.float32)
    rows = torch.from_numpy(np.concatenate([np.zeros((len(boxes), 1)), boxes], 1)).float()
    mean = roi_align(torch.from_numpy(masks).float()[:, None], rows, (28, 28), 1.0, -1, True)[:, 0]
    near = mean[(mean - 0.5).abs() < 1e-4]
    assert (near < 0.5).sum() > 100 < (near >= 0.5).sum()
    found = BitmapMasks(masks, 900, 900).crop_to_tensor(boxes, (28, 28), np.zeros(len(boxes), dtype=int))
    assert torch.equal(found, mean >= 0.5)


def test_boxes_that_are_none_have_empty_targets():
    masks = BitmapMasks(np.ones((2, 8, 8)), 8, 8)
    boxes = np.array([[np.nan] * 4, [0, 0, np.inf, 4], [5, 5, 2, 2], [1, 1, 6, 6]], dtype=np.float32)
    found = masks.crop_to_tensor(boxes, (4, 4), np.array([0, 1, 1, 1]))
    assert not found[:3].any() and found[3].all()
    assert not masks.crop_to_tensor(boxes[:3], (4, 4), np.array([0, 1, 1])).any()


def test_what_is_kept_and_sent_to_another_process_is_small():
    square = [[100.0, 100, 140, 100, 140, 140, 100, 140]]
    parts = MaskParts([draw_part(square, 480, 640)] * 10, np.arange(480), np.arange(640))
    masks = BitmapMasks(parts, 480, 640).resize((800, 1067)).flip()
    assert len(pickle.dumps(masks)) < 100_000 < masks.masks.nbytes / 50


def test_rows_of_nearest_neighbours_are_opencvs():
    import cv2

    generator = np.random.default_rng(0)
    for old, new in generator.integers(1, 1400, (300, 2)).tolist():
        image = generator.integers(0, 256, (old, 3), dtype=np.uint8)
        assert np.array_equal(cv2.resize(image, (3, new), interpolation=cv2.INTER_NEAREST), image[nearest(old, new)])
        assert np.array_equal(
            cv2.resize(image.T.copy(), (new, 3), interpolation=cv2.INTER_NEAREST), image.T[:, nearest(old, new)]
        )


def test_pixels_that_are_set_by_hand_stay():
    parts = MaskParts([draw_part([[0.0, 0, 4, 0, 4, 4, 0, 4]], 6, 6)], np.arange(6), np.arange(6))
    masks = BitmapMasks(parts, 6, 6)
    masks.masks[0, 5, 5] = 1
    assert masks.flip().masks[0, 5, 0] == 1
    masks.masks = np.zeros((2, 6, 6), dtype=np.uint8)
    assert len(masks) == 2 and not masks.areas.any()
