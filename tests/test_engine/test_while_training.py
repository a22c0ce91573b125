"""Losses of the validation, averages of the weights, and the end of a run that gets no better."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope
from torch import nn

from mmdet.config import load_config
from mmdet.engine import DetRunner
from mmdet.engine.hooks import EarlyStoppingHook, cbn_layers
from mmdet.models.layers import ExpMomentumEMA
from mmdet.ops.norm import CBN

LOAD, ANNOTATIONS = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
RESIZE = dict(type='Resize', scale=(96, 80), keep_ratio=False)
PACK = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))


class Metrics(Hook):
    """What the validations gave."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen = []

    def after_val_epoch(self, runner, metrics=None):
        self.seen.append(dict(metrics))


def run(tiny_config, work_dir, options=None, hooks=(), pipeline=None, resume=False):
    init_default_scope('mmdet')
    cfg = load_config(str(tiny_config))
    cfg.merge_from_dict({'train_cfg.val_interval': 1, 'model.backbone.init_cfg': None, **(options or {})})
    if pipeline:
        cfg.val_dataloader.dataset.pipeline = pipeline
    cfg.work_dir, cfg.resume, cfg.log_level = str(work_dir), resume, 'ERROR'
    cfg.visualizer = None
    runner = DetRunner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


# -- the losses of the validation -------------------------------------------------------------------------------------


def test_val_loss(tiny_config, tmp_path):
    """It is the mean of the model's losses, wherever annotations are loaded, and the training does not notice."""
    before, after = [LOAD, ANNOTATIONS, RESIZE, PACK], [LOAD, RESIZE, ANNOTATIONS, PACK]
    seen, models = {}, {}
    for name, pipeline, options in (
        ('without', after, {}),
        ('after', after, {'val_cfg.with_loss': True}),
        ('added', [LOAD, RESIZE, PACK], {'val_cfg.with_loss': True}),
        ('before', before, {'val_cfg.with_loss': True}),
    ):
        metrics = Metrics()
        runner = run(tiny_config, tmp_path / name, options, [metrics], pipeline)
        seen[name], models[name] = metrics.seen, runner.model.state_dict()
    names = ('loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask')
    for one, other, plain in zip(seen['after'], seen['before'], seen['without']):
        assert set(one) - set(plain) == {*names, 'val_loss'}
        assert one['val_loss'] == pytest.approx(sum(one[name] for name in names)) and one['loss_mask'] > 0
        assert {name: one[name] for name in plain} == plain
        for name in names:
            assert one[name] == pytest.approx(other[name], rel=1e-5)
    assert seen['after'][0]['val_loss'] != seen['after'][1]['val_loss'] and len(seen['after']) == 2
    assert seen['added'] == seen['after']  # annotations are loaded for it
    for name in ('after', 'before'):
        assert all(torch.equal(value, models['without'][key]) for key, value in models[name].items())
    # by hand, in evaluation mode, from the last weights
    runner.model.eval()
    totals = []
    for batch in runner.val_dataloader:
        with torch.no_grad():
            data = runner.model.data_preprocessor(copy.deepcopy(batch), False)
            runner.model.data_preprocessor.pad_gt_masks(data['data_samples'])
            totals.append(sum(map(float, runner.model(**data, mode='loss')['loss_rpn_cls'])))
    # the anchors that are sampled differ, the boxes do not
    assert seen['before'][-1]['loss_rpn_cls'] == pytest.approx(np.mean(totals), rel=0.3)


def test_val_loss_without_annotations_is_refused_before_the_training(tiny_config, tmp_path):
    boxes = dict(type='LoadAnnotations', with_bbox=True)
    with pytest.raises(ValueError, match=r'no gt_instances.masks, which val_cfg.with_loss needs.*LoadAnno'):
        run(tiny_config, tmp_path, {'val_cfg.with_loss': True}, pipeline=[LOAD, RESIZE, boxes, PACK])


def test_what_waits_for_the_val_loss_is_known(tiny_config, tmp_path):
    options = {'default_hooks.checkpoint.save_best': 'val_loss', 'val_cfg.with_loss': True}
    run(tiny_config, tmp_path / 'a', options, pipeline=[LOAD, RESIZE, ANNOTATIONS, PACK])
    assert list((tmp_path / 'a').glob('best_val_loss_epoch_*.pth'))
    with pytest.raises(ValueError, match="save_best: the validation gives no 'val_loss'"):
        run(tiny_config, tmp_path / 'b', {'default_hooks.checkpoint.save_best': 'val_loss'})


# -- averages of the weights ------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.register_buffer('seen', torch.zeros(3, dtype=torch.float64))


def test_exp_momentum_ema_is_its_formula():
    """Against the weighted sum, written out, in float64."""
    model, values = Net(), torch.randn(8, 3, dtype=torch.float64)
    ema = ExpMomentumEMA(model, momentum=0.1, gamma=5, update_buffers=True)
    expected = None
    for t, value in enumerate(values):
        model.w.data.copy_(value)
        model.seen.copy_(2 * value)
        ema.update_parameters(model)
        m = 0.1 + 0.9 * math.exp(-(1 + t) / 5)
        expected = value if expected is None else (1 - m) * expected + m * value
        torch.testing.assert_close(ema.module.w.data, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ema.module.seen, 2 * expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match='gamma must be above 0, got 0'):
        ExpMomentumEMA(model, gamma=0)


EMA = dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.05, gamma=3)


@pytest.fixture(scope='module')
def plain(tiny_config, tmp_path_factory):
    return run(tiny_config, tmp_path_factory.mktemp('plain'))


@pytest.mark.parametrize('hook', [EMA, dict(EMA, update_buffers=True)], ids=['weights', 'and buffers'])
def test_training_and_windows_do_not_notice_the_averages(tiny_config, plain, tmp_path, hook):
    """Weights are exchanged for a validation, and the windows of CBN are those of the training."""
    runner = run(tiny_config, tmp_path / 'ema', {'custom_hooks': [hook]})
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, runner.model.state_dict()[name]), name
    layers = cbn_layers(runner.model)
    assert layers and all(isinstance(layer, CBN) for layer in layers.values())
    for name, layer in cbn_layers(plain.model).items():
        assert str(layer.window_state()) == str(layers[name].window_state())
    own = next(one for one in runner.hooks if type(one).__name__ == 'EMAHook')
    averages = dict(own.ema_model.module.named_parameters())
    assert any(not torch.equal(value, averages[name]) for name, value in runner.model.named_parameters())
    # the checkpoint's weights are the averages
    saved = torch.load(tmp_path / 'ema' / 'epoch_2.pth', weights_only=False)
    assert all(torch.equal(saved['state_dict'][name], value) for name, value in averages.items())
    # and a run that is resumed from the first epoch ends with the same weights, averages and windows
    (tmp_path / 'ema' / 'last_checkpoint').write_text(str(tmp_path / 'ema' / 'epoch_1.pth'))
    (tmp_path / 'ema' / 'epoch_2.pth').unlink()
    resumed = run(tiny_config, tmp_path / 'ema', {'custom_hooks': [hook]}, resume=True)
    again = torch.load(tmp_path / 'ema' / 'epoch_2.pth', weights_only=False)
    for key in ('state_dict', 'ema_state_dict'):
        assert all(torch.equal(value, again[key][name]) for name, value in saved[key].items())
    assert str(saved['cbn_window']) == str(again['cbn_window']) and resumed.iter == runner.iter


# -- the end of a run that gets no better -----------------------------------------------------------------------------


@HOOKS.register_module(force=True)
class Scripted(Hook):
    """Validations that give what is written, before anybody else sees it."""

    priority = 'VERY_HIGH'
    numbers = (0.1, 0.3, 0.2, 0.25, 0.29, 0.1, 0.1, 0.1)

    def after_val_epoch(self, runner, metrics=None):
        metrics['coco/bbox_mAP'] = self.numbers[runner.epoch - 1]


EARLY = dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP', patience=3)


@pytest.mark.parametrize('stop', [2, 4])
def test_early_stopping_through_a_break(tiny_config, tmp_path, stop):
    hooks = [dict(type='Scripted'), EARLY]
    options = {'custom_hooks': hooks, 'train_cfg.max_epochs': 8}

    class Break(Hook):
        priority = 'LOWEST'

        def after_val_epoch(self, runner, metrics=None):
            if runner.epoch == stop:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_config, tmp_path / 'parts', options, [Break()])
    resumed = run(tiny_config, tmp_path / 'parts', options, resume=True)
    assert resumed.epoch == 5  # the second is the best one, and three are not better
    own = next(hook for hook in resumed.hooks if isinstance(hook, EarlyStoppingHook))
    assert own.wait_count == 3 and own.best_score == pytest.approx(0.3)


def test_early_stopping_by_itself(tiny_config, tmp_path):
    options = {'custom_hooks': [dict(type='Scripted'), EARLY], 'train_cfg.max_epochs': 8}
    assert run(tiny_config, tmp_path, options).epoch == 5
    assert run(tiny_config, tmp_path, options, resume=True).epoch == 5  # it has stopped, and does so again


def test_a_test_builds_no_training(tiny_config, tmp_path):
    init_default_scope('mmdet')
    cfg = load_config(str(tiny_config))
    cfg.merge_from_dict({'model.backbone.init_cfg': None, 'custom_hooks': [dict(EARLY), EMA]})
    cfg.work_dir, cfg.log_level, cfg.visualizer = str(tmp_path), 'ERROR', None
    cfg.train_dataloader.dataset.data_root = 'elsewhere/'
    assert 'coco/bbox_mAP' in DetRunner.from_cfg(cfg).test()


@pytest.mark.parametrize('state', [dict(best='x'), [1], dict(best=0.1, waited=None, iter=1, stopped=0)])
def test_a_strangers_state_is_refused_by_name(state):
    hub = SimpleNamespace(runtime_info=dict(early_stopping=state))
    loop = SimpleNamespace(stop_training=False)
    runner = SimpleNamespace(message_hub=hub, _resume=True, _load_from='x.pth', work_dir='', train_loop=loop)
    with pytest.raises(ValueError, match='checkpoint x.pth: cannot be resumed from'):
        EarlyStoppingHook(monitor='coco/bbox_mAP').before_train(runner)
