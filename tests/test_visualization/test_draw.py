"""Pictures: the right pixels change, small images are enlarged."""
import numpy as np
import torch
from mmengine.structures import InstanceData

from mmdet.visualization import DetLocalVisualizer, draw_instances
from mmdet.visualization.draw import MIN_SIDE

IMAGE = np.full((60, 90, 3), 128, dtype=np.uint8)


def test_box_and_mask_are_where_they_belong():
    masks = np.zeros((1, 600, 900), dtype=bool)
    masks[0, 300:400, 300:500] = True
    large = np.full((600, 900, 3), 128, dtype=np.uint8)
    out = draw_instances(large, np.array([[300, 300, 500, 400.]]), np.array([0]), ['cell'], np.array([0.9]), masks)
    changed = (out != 128).any(-1)
    assert changed[310:390, 310:490].all() and changed[300, 300:500].all()
    assert not changed[420:].any() and not changed[:, :290].any()
    assert (large == 128).all()


def test_small_images_are_enlarged_and_empty_results_drawn():
    none = np.zeros((0, 4)), np.zeros(0, dtype=int)
    out = draw_instances(IMAGE, *none, ['a'], np.zeros(0), np.zeros((0, 60, 90), dtype=bool))
    assert out.shape == (MIN_SIDE, MIN_SIDE * 90 // 60, 3)
    out = draw_instances(IMAGE, np.array([[10, 10, 50, 40.]]), np.array([3]), ['a'])
    assert (out[40 * 8, 80:400] != 128).any()


class Sample:
    gt_instances = InstanceData(bboxes=torch.tensor([[5., 5, 20, 20]]), labels=torch.tensor([0]))
    pred_instances = InstanceData(bboxes=torch.tensor([[5., 5, 20, 20], [30, 30, 50, 50]]),
                                  labels=torch.tensor([0, 1]), scores=torch.tensor([0.9, 0.1]))

    def __contains__(self, key):
        return hasattr(self, key)


def test_visualizer_writes_a_picture_and_leaves_out_low_scores(tmp_path):
    visualizer = DetLocalVisualizer(name='test_draw')
    visualizer.dataset_meta = dict(classes=('a', 'b'))
    both = visualizer.add_datasample('x', IMAGE, Sample(), out_file=str(tmp_path / 'deep' / 'x.png'))
    assert (tmp_path / 'deep' / 'x.png').stat().st_size > 100 and both.shape[1] == 2 * MIN_SIDE * 90 // 60
    right = visualizer.add_datasample('x', IMAGE, Sample(), draw_gt=False, out_file=str(tmp_path / 'y.png'))
    assert (right[8 * 52:] == 128).all()  # the second detection scores too low
