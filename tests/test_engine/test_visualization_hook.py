"""The hook hands every setting to the visualizer; mmdetection's switch for it."""

from argparse import Namespace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.structures import DetDataSample


@pytest.fixture
def drawn(tmp_path):
    """A runner, three samples, and what the visualizer is asked for."""
    calls = []
    visualizer = SimpleNamespace(add_datasample=lambda *args, **kwargs: calls.append((args, kwargs)))
    samples = []
    for name in 'abc':
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.full((4, 5, 3), (255, 0, 0), np.uint8))
        samples.append(DetDataSample(metainfo=dict(img_path=str(tmp_path / f'{name}.png'))))
    return SimpleNamespace(visualizer=visualizer, iter=40), samples, calls


def test_every_second_image_in_validation_and_every_one_in_testing(drawn):
    runner, samples, calls = drawn
    DetVisualizationHook().after_test_iter(runner, 0, outputs=samples)
    assert not calls
    hook = DetVisualizationHook(True, 2, 0.7, True, 1.5, 'there')
    hook.after_val_iter(runner, 1, outputs=samples)
    assert [args[0] for args, _ in calls] == ['b']  # the fifth image
    assert calls[0][1] == dict(draw_gt=False, show=True, wait_time=1.5, out_file=None, pred_score_thr=0.7, step=40)
    assert (calls[0][0][1] == (0, 0, 255)).all()  # RGB
    hook.after_test_iter(runner, 3, outputs=samples)
    assert [kwargs['out_file'] for _, kwargs in calls[1:]] == ['there/a.png', 'there/b.png', 'there/c.png']


def test_images_of_one_name_have_a_picture_each(drawn):
    runner, samples, calls = drawn
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(img_id=i))
    paths = ['x/a.png', 'x/b.png', 'y/a.png', 'y/c.png']
    data = type('Data', (), dict(__len__=lambda self: 4, get_data_info=lambda self, i: dict(img_path=paths[i])))()
    runner.test_loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=data))
    hook = DetVisualizationHook(True, test_out_dir='there')
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, outputs=samples)
    assert [kwargs['out_file'] for _, kwargs in calls] == ['there/a_0.png', 'there/b.png', 'there/c.png']


def test_trigger():
    cfg = Config(dict(default_hooks=dict(visualization=dict(type='DetVisualizationHook'))))
    cfg = trigger_visualization_hook(cfg, Namespace(show=False, show_dir='there', wait_time=2))
    assert cfg.default_hooks.visualization == dict(type='DetVisualizationHook', draw=True, test_out_dir='there')
    cfg = trigger_visualization_hook(cfg, Namespace(show=True, show_dir=None, wait_time=2))
    assert cfg.default_hooks.visualization.show and cfg.default_hooks.visualization.wait_time == 2
    with pytest.raises(KeyError, match="default_hooks has no 'visualization'"):
        trigger_visualization_hook(Config(dict(a=1)), Namespace(show=True, show_dir=None, wait_time=2))
