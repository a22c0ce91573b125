"""Labels are legible: inside the picture, on no other label, on no small object, in contrast; crowds, small images."""

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.visualization import DetLocalVisualizer
from mmdet.visualization.draw import MAX_SIDE, _fit_texts, draw_instances, readable_factor
from mmdet.visualization.labels import MAX_COVER, draw_label, find_spot, label_size, readable_ink
from mmdet.visualization.palette import BRIGHT, PALETTE, neighbour_colours, shades


def random_boxes(number, width, height, side, seed=0):
    rng = np.random.RandomState(seed)
    corners = rng.uniform(-5, (width - side / 2, height - side / 2), (number, 2))
    return np.concatenate([corners, corners + rng.uniform(side / 2, side, (number, 2))], 1)


def common(a, b):
    """Area in which two rectangles overlap."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


@pytest.mark.parametrize('number, side', [(4, 80), (40, 60), (200, 25)])
def test_spots(number, side):
    boxes, taken = random_boxes(number, 320, 240, side), []
    for box in boxes:
        spot = find_spot((45, 15), box, boxes, taken, (240, 320))
        if spot is None:
            continue
        assert (spot[:2] >= 0).all() and spot[2] <= 320 and spot[3] <= 240
        assert tuple(spot[2:] - spot[:2]) == (45, 15)
        assert all(common(spot, other) == 0 for other in taken)
        assert all(common(spot, other) <= MAX_COVER * (other[2] - other[0]) * (other[3] - other[1]) for other in boxes)
        taken.append(spot)
    assert len(taken) == number if number == 4 else 0 < len(taken) < number


def test_a_label_larger_than_the_picture_begins_in_it():
    spot = find_spot((90, 15), np.array([5, 5, 30, 30.0]), np.array([[5, 5, 30, 30.0]]), [], (40, 60))
    assert spot[0] == 0
    canvas = np.zeros((40, 60, 3), dtype=np.uint8)
    draw_label(canvas, 'a long label', (0, 0), 12, np.array([9, 9, 9]))
    assert (canvas[:15] > 0).all()


def texts(scores, number=60, width=400, names=('cell',)):
    boxes = random_boxes(number, width, width, width / 20)
    numbers = [f'{score:.2f}' for score in (scores if scores is not None else [])]
    full = [f'{names[0]} {one}' for one in numbers] or [names[0]] * number
    placed = _fit_texts(full, numbers or full, boxes, scores, len(names) == 1, 14, (width, width))
    return [text for _, text, _ in placed], [index for index, _, _ in placed]


def test_a_crowd_of_one_class_has_its_name_once():
    scores = np.random.RandomState(0).permutation(np.linspace(0.3, 0.9, 60))
    said, which = texts(scores)
    assert said[0] == 'cell 0.90' and not any('cell' in text for text in said[1:]) and len(said) > 20
    assert (np.diff(scores[which]) < 0).all()
    assert texts(None)[0] == ['cell']
    assert all(text.startswith('cell') for text in texts(np.linspace(0.3, 0.9, 3), 3)[0])
    assert texts(None, 3)[0] == ['cell'] * 3


def test_ink_can_be_read_on_every_colour():
    def luminance(colour):
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in np.asarray(colour) / 255]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for ground in PALETTE:
        dark, light = sorted((luminance(ground), luminance(readable_ink(ground))))
        assert (light + 0.05) / (dark + 0.05) > 3, ground


def test_letters_beyond_ascii():
    def picture(text):
        canvas = np.zeros((30, 80, 3), dtype=np.uint8)
        draw_label(canvas, text, (0, 0), 14, np.array([200, 0, 0]))
        return canvas

    width, height = label_size('Zelle ä', 14)
    drawn = picture('Zelle ä')
    assert (drawn[:height, :width] > 0).any(-1).all() and not drawn[height:].any() and not drawn[:, width:].any()
    assert (picture('ä') != picture('?')).any() and (picture('ж') != picture('ä')).any()


def test_neighbours_have_different_colours():
    boxes = random_boxes(150, 300, 300, 20)
    colours = neighbour_colours(boxes)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for i in range(1, len(boxes)):
        near = np.argsort(((centres[:i] - centres[i]) ** 2).sum(1))[:4]
        assert not (colours[near] == colours[i]).all(1).any()
    assert len(np.unique(colours, axis=0)) == len(BRIGHT) and neighbour_colours(np.zeros((0, 4))).shape == (0, 3)


def test_shades():
    out = shades(np.array([[100, 50, 200]] * 3 + [[1, 2, 3]]), np.array([4, 4, 4, 0]))
    assert out[0].tolist() == [100, 50, 200] and out[3].tolist() == [1, 2, 3]
    assert (out[1] > out[0]).all() and (out[2] < out[0]).all()


@pytest.mark.parametrize(
    'shape, side, expected',
    [
        ((256, 320), 100, 2),
        ((256, 320), 10, 4),
        ((256, 320), 20, 3),
        ((128, 128), 5, 10),
        ((480, 640), 5, 2),
        ((480, 640), 50, 1),
        ((800, 1200), 5, 1),
        ((3000, 4000), 20, 1),
    ],
)
def test_small_objects_enlarge_small_pictures(shape, side, expected):
    image = np.zeros((*shape, 3), dtype=np.uint8)
    boxes = np.array([[0, 0, side, side]] * 3)
    assert readable_factor(image, boxes) == expected and readable_factor(image, boxes[:0]) == readable_factor(image)
    assert expected * max(shape) <= MAX_SIDE or expected == readable_factor(image)


def test_line_and_letters_grow_with_the_picture():
    def drawn(side):
        box = np.array([[0.2, 0.3, 0.8, 0.9]]) * side
        out = draw_instances(np.zeros((side, side, 3), np.uint8), box, np.array([0]), ['b'], np.array([[250, 0, 0]]))
        red = (out == (250, 0, 0)).all(-1)
        return red[:, side // 2].sum() / 2, (red | (out > 0).all(-1))[:, round(side * 0.22)].sum()

    (thin, low), (thick, high) = drawn(600), drawn(3000)
    assert thick == pytest.approx(5 * thin, rel=0.3) and high == pytest.approx(5 * low, rel=0.2)


def test_masks_of_a_class_can_be_told_apart_and_holes_are_left_open():
    masks = np.zeros((2, 600, 600), dtype=bool)
    masks[0, 100:300, 100:300], masks[1, 100:300, 300:500] = True, True
    masks[0, 180:220, 180:220] = False
    boxes = np.array([[100, 100, 300, 300], [300, 100, 500, 300.0]])
    out = draw_instances(
        np.zeros((600, 600, 3), np.uint8), boxes, np.array([0, 0]), 'ab', np.array([[200, 0, 0]] * 2), masks=masks
    )
    assert tuple(out[150, 150]) != tuple(out[150, 400]) and not out[200, 200].any()
    assert (out[180 - 1 : 180 + 2, 200] == (200, 0, 0)).all(-1).any()  # the hole's outline


@pytest.mark.parametrize('bitmaps', [False, True])
def test_ignored_regions_are_grey_and_hatched(bitmaps):
    sample = DetDataSample()
    for name, start in (('gt_instances', 50), ('ignored_instances', 300)):
        box = torch.tensor([[start, start, start + 200, start + 200.0]])
        setattr(sample, name, InstanceData(bboxes=box, labels=torch.tensor([1])))
        if bitmaps:
            masks = np.zeros((1, 600, 600), dtype=np.uint8)
            masks[0, start : start + 200, start : start + 200] = 1
            getattr(sample, name).masks = BitmapMasks(masks, 600, 600)
    drawer = DetLocalVisualizer()
    drawer.dataset_meta = dict(classes=('a', 'b'))
    drawer.add_datasample('x', np.zeros((600, 600, 3), np.uint8), sample, draw_pred=False)
    out = drawer.get_image()
    line = out[300:500, 499:502]
    assert {tuple(p) for p in line.reshape(-1, 3)} <= {(0, 0, 0), (225, 225, 225), (101, 101, 101), (60, 180, 75)}
    share = (out[320:480, 320:480] > 0).any(-1).mean()
    assert 0.3 < share < 0.7 if bitmaps else share < 0.1
    assert (out[50, 60:240] == PALETTE[1]).all()
    drawer.add_datasample('x', np.zeros((600, 600, 3), np.uint8), sample, draw_gt=False)
    assert not drawer.get_image().any()


def test_small_objects_are_on_large_ones():
    masks = np.zeros((2, 600, 600), dtype=bool)
    masks[0, 250:300, 250:300], masks[1, 100:500, 100:500] = True, True
    boxes = np.array([[250, 250, 300, 300], [100, 100, 500, 500.0]])
    colours = np.array([[200, 0, 0], [0, 0, 200]])
    for order in ([0, 1], [1, 0]):
        out = draw_instances(
            np.zeros((600, 600, 3), np.uint8),
            boxes[order],
            np.array(order),
            'ab',
            colours[order],
            scores=np.array([0.5, 0.9])[order],
            masks=masks[order],
            alpha=1,
        )
        assert tuple(out[290, 275]) == (200, 0, 0) and tuple(out[450, 275]) == (0, 0, 200)
