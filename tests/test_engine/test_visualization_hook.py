"""The hook hands every setting to the visualizer; mmdetection's switch for it."""

from argparse import Namespace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer


@pytest.fixture
def drawn(tmp_path):
    """A runner, three samples, and what the visualizer is asked for."""
    calls = []
    visualizer = SimpleNamespace(add_datasample=lambda *args, **kwargs: calls.append((args, kwargs)))
    samples = []
    for name in 'abc':
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.full((4, 5, 3), (255, 0, 0), np.uint8))
        sample = DetDataSample(metainfo=dict(img_path=str(tmp_path / f'{name}.png')), pred_instances=InstanceData())
        samples.append(sample)
    runner = SimpleNamespace(visualizer=visualizer, iter=40, work_dir=str(tmp_path / 'work'), timestamp='20261129_1')
    return runner, samples, calls


def test_every_second_image_in_validation_and_every_one_in_testing(drawn):
    runner, samples, calls = drawn
    there = f'{runner.work_dir}/20261129_1/there'
    DetVisualizationHook().after_test_iter(runner, 0, outputs=samples)
    assert not calls
    hook = DetVisualizationHook(True, 2, 0.7, True, 1.5, 'there')
    hook.after_val_iter(runner, 1, outputs=samples)
    assert [args[0] for args, _ in calls] == ['b']  # the fifth image
    assert calls[0][1] == dict(show=True, wait_time=1.5, out_file=None, pred_score_thr=0.7, step=40)
    assert (calls[0][0][1] == (0, 0, 255)).all()  # RGB
    hook.after_test_iter(runner, 3, outputs=samples)
    assert [kwargs['out_file'] for _, kwargs in calls[1:]] == [f'{there}/{name}.png' for name in 'abc']
    assert [kwargs['step'] for _, kwargs in calls[1:]] == [1, 2, 3]


def test_images_of_one_name_have_a_picture_each(drawn):
    runner, samples, calls = drawn
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(img_id=i))
    paths = ['x/a.png', 'x/b.png', 'y/a.png', 'y/c.png']
    data = type('Data', (), dict(__len__=lambda self: 4, get_data_info=lambda self, i: dict(img_path=paths[i])))()
    runner.test_loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=data))
    hook = DetVisualizationHook(True, test_out_dir=f'{runner.work_dir}/there')  # an absolute path stays as it is
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, outputs=samples)
    there = f'{runner.work_dir}/there'
    assert [kwargs['out_file'] for _, kwargs in calls] == [f'{there}/a_0.png', f'{there}/b.png', f'{there}/c.png']


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_annotations_are_on_the_left_in_pixels_of_the_image(phase, tmp_path):
    truth = [([10, 20, 60, 50], [[10, 20, 60, 20, 60, 50, 10, 50]], 0), ([80, 10, 90, 40], None, 1)]
    infos = [
        dict(
            img_id=i,
            img_path=str(tmp_path / f'{i}.png'),
            instances=[dict(bbox=box, bbox_label=0, mask=mask, ignore_flag=flag) for box, mask, flag in truth[:number]],
        )
        for i, number in enumerate((2, 0))
    ]
    data = type('Data', (), dict(__len__=lambda self: 2, get_data_info=lambda self, i: infos[i]))()
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=data))
    # the model's input is half as large
    found = InstanceData(
        bboxes=torch.tensor([[100.0, 60.0, 110.0, 90.0]]), labels=torch.tensor([0]), scores=torch.tensor([0.9])
    )
    found.masks = torch.zeros(1, 100, 120, dtype=torch.bool)
    samples = []
    for info in infos:
        cv2.imwrite(info['img_path'], np.full((100, 120, 3), 128, np.uint8))
        meta = dict(img_path=info['img_path'], img_id=info['img_id'], ori_shape=(100, 120), img_shape=(50, 60))
        samples.append(DetDataSample(metainfo=meta, pred_instances=found))
    visualizer, pictures = DetLocalVisualizer(), []
    visualizer.add_image = lambda name, picture, step: pictures.append(visualizer.get_image())
    visualizer._vis_backends = dict(kept=None)
    runner = SimpleNamespace(visualizer=visualizer, iter=1, val_loop=loop, test_loop=loop)
    hook = DetVisualizationHook(draw=True, interval=1)
    getattr(hook, f'before_{phase}')(runner)
    getattr(hook, f'after_{phase}_iter')(runner, 0, outputs=samples)
    both, alone = pictures
    assert both.shape == (100, 240, 3) and alone.shape == (100, 120, 3)
    left, right = both[:, :119].astype(int), both[:, 121:]
    assert (left[25:45, 30:50] != 128).any(-1).all()  # the mask
    assert (left[12:38, 80] == (225, 225, 225)).all(-1).any() and (left[15:30, 83:88] == 128).all()  # ignored: dashed
    assert (left[65:85, 95:115] == 128).all() and (right[15:45, 5:55] == 128).all()
    assert (right[65:85, 99] != 128).any(-1).all() and (right == alone[:, 1:]).all()
    assert 'gt_instances' not in samples[0]


def test_annotations_of_the_pipeline_where_the_data_set_has_none(drawn):
    runner, samples, _ = drawn
    for sample in samples[:2]:
        sample.gt_instances = InstanceData(bboxes=torch.ones(int(sample is samples[0]), 4))
    shown = []
    runner.visualizer.add_datasample = lambda name, image, sample, **kwargs: shown.append(sample)
    DetVisualizationHook(draw=True).after_test_iter(runner, 0, outputs=samples)
    assert ['gt_instances' in sample for sample in shown] == [True, False, False]


def test_trigger():
    cfg = Config(dict(default_hooks=dict(visualization=dict(type='DetVisualizationHook'))))
    cfg = trigger_visualization_hook(cfg, Namespace(show=False, show_dir='there', wait_time=2))
    assert cfg.default_hooks.visualization == dict(type='DetVisualizationHook', draw=True, test_out_dir='there')
    cfg = trigger_visualization_hook(cfg, Namespace(show=True, show_dir=None, wait_time=2))
    assert cfg.default_hooks.visualization.show and cfg.default_hooks.visualization.wait_time == 2
    with pytest.raises(KeyError, match="default_hooks has no 'visualization'"):
        trigger_visualization_hook(Config(dict(a=1)), Namespace(show=True, show_dir=None, wait_time=2))
