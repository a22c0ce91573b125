"""Pictures: the right pixels change, small images are enlarged in files, colours and widths act."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer, draw_instances, get_palette
from mmdet.visualization.draw import MIN_SIDE, readable_factor

IMAGE = np.full((60, 90, 3), 128, dtype=np.uint8)
LARGE = np.full((600, 900, 3), 128, dtype=np.uint8)
RED = np.array([[255, 0, 0]], dtype=np.uint8)


def test_box_and_mask_are_where_they_belong():
    masks = np.zeros((1, 600, 900), dtype=bool)
    masks[0, 300:400, 300:500] = True
    out = draw_instances(
        LARGE, np.array([[300, 300, 500, 400.0]]), np.array([0]), ['cell'], RED, np.array([0.9]), masks
    )
    changed = (out != 128).any(-1)
    assert changed[310:390, 310:490].all() and changed[300, 300:500].all()
    assert not changed[420:].any() and not changed[:, :290].any()
    assert (LARGE == 128).all()


def test_small_images_are_enlarged_and_empty_results_drawn():
    none = np.zeros((0, 4)), np.zeros(0, dtype=int)
    factor = readable_factor(IMAGE)
    assert factor == MIN_SIDE // 60 and readable_factor(LARGE) == 1
    empty = RED[:0], np.zeros(0), np.zeros((0, 60, 90), dtype=bool)
    out = draw_instances(IMAGE, *none, ['a'], *empty, factor=factor)
    assert out.shape == (MIN_SIDE, MIN_SIDE * 90 // 60, 3)
    out = draw_instances(IMAGE, np.array([[10, 10, 50, 40.0]]), np.array([3]), ['a'], RED, factor=factor)
    assert (out[40 * 8, 80:400] != 128).any()


def sample(scale=1):
    boxes = torch.tensor([[5.0, 5, 20, 20], [30, 30, 50, 50]]) * scale
    out = DetDataSample()
    out.gt_instances = InstanceData(bboxes=boxes[:1], labels=torch.tensor([0]))
    masks = torch.zeros(2, 60 * scale, 90 * scale, dtype=torch.bool)
    masks[0, 8 * scale : 18 * scale, 8 * scale : 18 * scale] = True
    out.pred_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([0, 1]), scores=torch.tensor([0.9, 0.1]), masks=masks
    )
    return out


def visualizer(**kwargs):
    out = DetLocalVisualizer(**kwargs)
    out.dataset_meta = dict(classes=('a', 'b'), palette=[(1, 2, 3), (4, 5, 6)])
    return out


def test_visualizer_writes_an_enlarged_picture_and_returns_one_of_the_images_size(tmp_path):
    drawer = visualizer()
    assert drawer.add_datasample('x', IMAGE, sample(), out_file=str(tmp_path / 'deep' / 'x.png')) is None
    assert cv2.imread(str(tmp_path / 'deep' / 'x.png')).shape == (MIN_SIDE, 2 * MIN_SIDE * 90 // 60, 3)
    assert drawer.get_image().shape == (60, 180, 3)
    drawer.add_datasample('x', IMAGE, sample(), False)
    right = drawer.get_image()
    assert right.shape == IMAGE.shape and (right != 128).any()
    assert (right[40:] == 128).all()  # the second detection scores too low
    drawer.add_datasample('x', IMAGE, sample(), draw_gt=False, draw_pred=False)
    assert (drawer.get_image() == IMAGE).all()
    drawer.draw_bboxes(torch.tensor([[5.0, 5, 20, 20]]))  # mmengine's own drawing goes on from there
    assert (drawer.get_image() != IMAGE).any()
    with pytest.raises(ValueError, match='x.text.*png'):
        drawer.add_datasample('x', IMAGE, sample(), out_file=str(tmp_path / 'x.text'))


def test_order_of_arguments_is_mmdetections(tmp_path):
    drawer = visualizer()
    drawer.add_datasample('x', LARGE, sample(10), False, True, False, 0, str(tmp_path / 'x.png'), 0.05, 0)
    drawn = cv2.imread(str(tmp_path / 'x.png'))[..., ::-1]
    assert (drawn == drawer.get_image()).all()
    assert tuple(drawn[500, 400]) == (4, 5, 6)  # dataset_meta's palette, red first, also in the file


def test_what_is_drawn_afterwards_is_in_the_picture():
    drawer = visualizer()
    drawer.add_datasample('x', LARGE, sample(10), draw_gt=False)
    before = drawer.get_image()
    before[:] = 0  # a copy
    plain = drawer.get_image()
    drawer.draw_bboxes(np.array([[300, 300, 340, 340]]), edge_colors='r')
    assert (drawer.get_image() != plain).any() and plain.any()


def test_colours_width_and_opacity_act():
    def picture(**kwargs):
        drawer = visualizer(**kwargs)
        drawer.add_datasample('x', LARGE, sample(10), draw_gt=False)
        return drawer.get_image()

    assert tuple(picture(bbox_color='red')[200, 120]) == (255, 0, 0)
    assert tuple(picture(bbox_color=[(9, 8, 7), (0, 0, 0)])[200, 120]) == (9, 8, 7)
    assert tuple(picture(mask_color=(255, 0, 0), alpha=1)[120, 120]) == (255, 0, 0)
    assert (picture(alpha=0)[120, 120] == 128).all()
    width = [(picture(line_width=w)[195:206, 120] != 128).any(-1).sum() for w in (1, 3, 7)]
    assert width[0] < width[1] < width[2]
    assert (picture(text_color=(0, 255, 0)) == (0, 255, 0)).all(-1).any()
    assert not (picture() == (0, 255, 0)).all(-1).any()


def test_palettes():
    assert get_palette('none', 25).shape == (25, 3) and (get_palette(None, 25)[20:] == get_palette('coco', 5)).all()
    assert (get_palette('random', 4) == get_palette('random', 4)).all()
    assert get_palette((1, 2, 3), 2).tolist() == [[1, 2, 3]] * 2 and get_palette('blue', 1).tolist() == [[0, 0, 255]]
    for bad in ('cuda:0', (1, 2), [(1, 2, 300)], 5):
        with pytest.raises(ValueError, match='palette .*known are'):
            get_palette(bad, 3)
    with pytest.raises(ValueError, match='alpha'):
        DetLocalVisualizer(alpha=2)


def test_show_without_a_display_warns_and_goes_on(monkeypatch, tmp_path):
    monkeypatch.setattr('matplotlib.get_backend', lambda: 'agg')
    said = []
    monkeypatch.setattr('mmdet.visualization.local_visualizer.print_log', lambda text, *_: said.append(text))
    visualizer().add_datasample('x', IMAGE, sample(), show=True, out_file=str(tmp_path / 'x.png'))
    assert 'no display' in said[0] and (tmp_path / 'x.png').is_file()


def test_backends_get_the_picture(tmp_path):
    drawer = VISUALIZERS.build(
        dict(
            type='DetLocalVisualizer',
            vis_backends=[dict(type='LocalVisBackend')],
            name='test_backends',
            save_dir=str(tmp_path),
        )
    )
    drawer.add_datasample('x', IMAGE, sample(), draw_gt=False, step=3)
    [path] = tmp_path.rglob('x_3.png')
    assert cv2.imread(str(path)).shape == (MIN_SIDE, MIN_SIDE * 90 // 60, 3)
