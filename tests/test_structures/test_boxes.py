"""Boxes as objects: geometry against points by hand, and what would take a box apart is refused."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch

from mmdet.structures.bbox import (
    HorizontalBoxes,
    autocast_box_type,
    bbox2roi,
    bbox_overlaps,
    bbox_project,
    convert_box_type,
    get_box_tensor,
    get_box_type,
    register_box,
    register_box_converter,
    scale_boxes,
)
from mmdet.structures.bbox import box_type as types
from mmdet.structures.mask import BitmapMasks, PolygonMasks


def some(*shape):
    low = torch.rand(*shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 50
    size = 5 + torch.rand(*shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 30
    return torch.cat([low, low + size], -1)


def around(corners):
    """The box around points."""
    return [*corners.min(0), *corners.max(0)]


def corners_of(box):
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x1, y2], [x2, y2]])


MOVES = {
    'translate_': (([3.0, -4.0],), lambda p: p + [3, -4]),
    'rescale_': (([0.5, 2.0],), lambda p: p * [0.5, 2]),
    'clip_': (((30, 40),), lambda p: np.clip(p, 0, [40, 30])),
    'flip_': (((60, 90),), lambda p: [90, 0] + p * [-1, 1]),
    'project_': ((np.array([[1, 0.2, 3], [0, 2, 1], [0.001, 0, 1]]),), None),
    'rotate_': (((20.0, 10.0), 30), None),
}


@pytest.mark.parametrize('name', MOVES)
def test_moves_as_its_corners_do(name):
    arguments, move = MOVES[name]
    if name == 'project_':
        matrix = arguments[0]

        def move(points):
            own = np.c_[points, np.ones(4)] @ matrix.T
            return own[:, :2] / own[:, 2:]

    if name == 'rotate_':  # clockwise on the screen, whose y goes down
        turn = math.radians(30)

        def move(points):
            x, y = (points - [20, 10]).T
            return np.stack([x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)], 1) + [
                20,
                10,
            ]

    data = some(6)
    boxes = HorizontalBoxes(data)
    getattr(boxes, name)(*arguments)
    expected = [around(move(corners_of(box))) for box in data.tolist()]
    np.testing.assert_allclose(boxes.numpy(), expected, atol=1e-9)
    assert torch.equal(data, some(6))  # a copy has moved


@pytest.mark.parametrize('direction, signs', [('vertical', (1, -1)), ('diagonal', (-1, -1))])
def test_flips(direction, signs):
    boxes = HorizontalBoxes(some(6))
    boxes.flip_((60, 90), direction)
    side = np.where(np.array(signs) < 0, [90, 60], 0)
    np.testing.assert_allclose(boxes.numpy(), [around(side + signs * corners_of(b)) for b in some(6).tolist()])
    with pytest.raises(ValueError, match='sideways'):
        boxes.flip_((60, 90), 'sideways')


def test_sizes_and_centres():
    data = some(2, 3)
    boxes = HorizontalBoxes(data)
    torch.testing.assert_close(boxes.areas, boxes.widths * boxes.heights)
    torch.testing.assert_close(HorizontalBoxes(boxes.cxcywh, in_mode='cxcywh').tensor, data)
    resized = boxes.clone()
    resized.resize_([2.0, 0.5])
    torch.testing.assert_close(resized.centers, boxes.centers)
    torch.testing.assert_close(resized.widths, 2 * boxes.widths)
    with pytest.raises(ValueError, match='polar'):
        HorizontalBoxes(data, in_mode='polar')
    assert HorizontalBoxes([]).shape == (0, 4) and boxes.empty_boxes().dtype == torch.float64


def test_inside_and_overlaps():
    boxes = HorizontalBoxes([[10.0, 10, 20, 20], [-5, -5, 15, 15], [45, 45, 55, 55]])
    assert boxes.is_inside((30, 30)).tolist() == [True, True, False]
    assert boxes.is_inside((30, 30), all_inside=True).tolist() == [True, False, False]
    assert boxes.is_inside((30, 30), allowed_border=20).tolist() == [True, True, True]
    points = torch.tensor([[0.0, 0], [15, 15]])
    assert boxes.find_inside_points(points).tolist() == [[False, True, False], [True, True, False]]
    assert boxes[:2].find_inside_points(points, is_aligned=True).tolist() == [False, True]
    torch.testing.assert_close(HorizontalBoxes.overlaps(boxes, boxes), bbox_overlaps(boxes.tensor, boxes.tensor))


TAKES = {
    'index': lambda b: b[1, 2, 1],
    'column': lambda b: b[:, :, 1],
    'ellipsis': lambda b: b[..., None],
    'mask': lambda b: b[torch.ones(3, 4, 4, dtype=torch.bool)],
    'view': lambda b: b.view(-1),
    'repeat': lambda b: b.repeat(1, 1, 2),
    'transpose': lambda b: b.transpose(1, 2),
    'permute': lambda b: b.permute(2, 1, 0),
    'split': lambda b: b.split(1, dim=2),
    'unbind': lambda b: b.unbind(dim=2),
    'flatten': lambda b: b.flatten(end_dim=2),
    'unsqueeze': lambda b: b.unsqueeze(3),
    'cat': lambda b: HorizontalBoxes.cat([b, b], dim=2),
    'stack': lambda b: HorizontalBoxes.stack([b, b], dim=-1),
    'tensor': lambda b: b.__setitem__(0, b.tensor[0]),
    'data': lambda b: HorizontalBoxes(torch.rand(3, 5)),
}


@pytest.mark.parametrize('take', TAKES)
def test_a_box_stays_whole(take):
    with pytest.raises(AssertionError, match='HorizontalBoxes: '):
        TAKES[take](HorizontalBoxes(some(3, 4)))


def test_is_used_as_a_tensor():
    data = some(3, 4)
    boxes = HorizontalBoxes(data)
    for got, expected in (
        (boxes[1], data[1]),
        (boxes[1, 2], data[1, 2][None]),
        (boxes[np.array([True, False, True])], data[[0, 2]]),
        (boxes[None, ...], data[None]),
        (boxes.reshape(-1, 4), data.reshape(-1, 4)),
        (boxes.flatten(), data.flatten(0, 1)),
        (boxes.transpose(0, 1), data.transpose(0, 1)),
        (boxes[None].squeeze(), data),
        (boxes[None, :, None].squeeze(2), data[None]),
        (boxes.chunk(2)[0], data.chunk(2)[0]),
        (HorizontalBoxes.cat([boxes, boxes], 1), torch.cat([data, data], 1)),
        (HorizontalBoxes.stack([boxes, boxes]), torch.stack([data, data])),
        (boxes.to(torch.float32), data.float()),
        (boxes.fake_boxes((2, 4), 1), torch.ones(2, 4, dtype=torch.float64)),
        (scale_boxes(boxes.clone(), (2.0, 3.0)), scale_boxes(data, (2.0, 3.0))),
        (deepcopy(boxes), data),
    ):
        assert torch.equal(get_box_tensor(got), get_box_tensor(expected))
    boxes[0] = boxes[1]
    assert torch.equal(boxes.tensor[0], data[1]) and len(boxes) == 3 and 'HorizontalBoxes' in repr(boxes)
    with pytest.raises(ValueError, match='no boxes'):
        HorizontalBoxes.cat([])


def test_regions_of_images():
    rois = bbox2roi([HorizontalBoxes(some(2)), torch.cat([some(1), torch.ones(1, 1)], 1)])
    assert rois[:, 0].tolist() == [0, 0, 1] and torch.equal(rois[:2, 1:], some(2))
    with pytest.raises(ValueError, match=r'got \(2, 3\)'):
        bbox2roi([torch.rand(2, 3)])


def test_types_by_name(monkeypatch):
    for name in ('box_types', '_box_type_to_name', 'box_converters'):
        monkeypatch.setattr(types, name, dict(getattr(types, name)))

    @register_box('Turned')
    class Turned(HorizontalBoxes):
        pass

    assert get_box_type('turned') == get_box_type(Turned) == ('turned', Turned)
    boxes = HorizontalBoxes(some(2))
    assert convert_box_type(boxes, dst_type='hbox') is boxes
    with pytest.raises(AssertionError, match="no converter 'hbox2turned'"):
        boxes.convert_to('turned')
    register_box_converter('hbox', 'turned', lambda tensor: tensor.flip(0))
    assert isinstance(boxes.convert_to(Turned), Turned)
    array = convert_box_type(boxes.numpy(), src_type='hbox', dst_type='turned')
    np.testing.assert_array_equal(array, some(2).flip(0).numpy())
    with pytest.raises(KeyError, match='registered already'):
        register_box('turned', Turned)
    register_box('other', Turned, force=True)
    assert 'turned' not in types.box_types and len(types.box_types) == len(types._box_type_to_name)
    for wrong, error in ((lambda: register_box('x', int), AssertionError), (lambda: get_box_type('x'), AssertionError)):
        with pytest.raises(error):
            wrong()
    with pytest.raises(TypeError, match='list'):
        convert_box_type([[1, 2, 3, 4]], src_type='hbox', dst_type='other')
    with pytest.raises(AssertionError, match='need one'):
        convert_box_type(boxes.tensor, dst_type='other')


def test_a_transform_gets_boxes_of_an_array():
    class Own:
        @autocast_box_type()
        def transform(self, results):
            return results['gt_bboxes'].areas

    assert Own().transform(dict(gt_bboxes=np.array([[0, 0, 2, 3]]))).tolist() == [6]


def test_masks_move_and_are_put_together():
    square = np.zeros((1, 10, 12), dtype=np.uint8)
    square[:, 2:5, 1:4] = 1
    bitmaps, polygons = BitmapMasks(square, 10, 12), PolygonMasks([[np.array([1.0, 2, 4, 2, 4, 5, 1, 5])]], 10, 12)
    for masks in (bitmaps, polygons):
        for shape, offset, direction, box in (
            ((10, 12), 5, 'horizontal', [6, 2, 9, 5]),
            ((20, 8), 5, 'horizontal', [6, 2, 8, 5]),
            ((10, 12), -3, 'vertical', [1, 0, 4, 2]),
        ):
            moved = masks.translate(shape, offset, direction)
            assert moved.get_bboxes().tensor.tolist() == [box] and (moved.height, moved.width) == shape
        kind = type(masks)
        assert len(kind.cat([kind.random(2), kind.random(3, rng=1)])) == 5
        with pytest.raises(AssertionError, match='must be a list'):
            kind.cat(kind.random())
        with pytest.raises(ValueError, match='no masks'):
            kind.cat([])
        boxes = HorizontalBoxes.from_instance_masks(kind.random(4))
        assert boxes.is_inside((32, 32), allowed_border=1, all_inside=True).all() and len(boxes) == 4
    with pytest.raises(AssertionError, match='of this type'):
        BitmapMasks.cat([BitmapMasks.random(), PolygonMasks.random()])


def test_bbox_project():
    boxes = torch.tensor([[10.0, 20, 30, 60], [0, 0, 5, 5]])
    matrix = torch.tensor([[0.0, -1, 100], [2, 0, 0], [0, 0, 1]])  # x' = 100 - y, y' = 2 x
    assert bbox_project(boxes, matrix).tolist() == [[40, 20, 80, 60], [95, 0, 100, 10]]
    assert bbox_project(boxes, matrix, (30, 97)).tolist() == [[40, 20, 80, 30], [95, 0, 97, 10]]
    projected = bbox_project(boxes.numpy(), matrix.numpy())
    assert isinstance(projected, np.ndarray) and projected.dtype == np.float32
    assert boxes.tolist() == [[10, 20, 30, 60], [0, 0, 5, 5]]
