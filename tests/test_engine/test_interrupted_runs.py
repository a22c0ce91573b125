"""A training that a signal ends has saved its state, and goes on as if nothing had happened."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from test_engine.test_loops import ASPECT, LOADER, Net, equal, state

from mmdet.engine import CBNHook, DetRunner, ProgressHook
from mmdet.engine.hooks.progress_hook import hide_periodic
from mmdet.run.interrupt import Interrupted

EPOCHS, ITERS = dict(by_epoch=True, max_epochs=3), dict(by_epoch=False, max_iters=12, val_interval=4)  # of 4 batches


class ValNet(Net):
    def forward(self, inputs, mode='loss'):
        return super().forward(inputs) if mode == 'loss' else [dict(size=len(inputs))]


class Count(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(len(data_batch['inputs']))

    def compute_metrics(self, results):
        return dict(images=sum(results))


class Lost(Exception):
    """Of a process that ends without a word, as far as what it leaves is concerned."""


class Signal(Hook):
    """Sends SIGTERM after a training iteration, or in the validation after one; keeps what ran."""

    def __init__(self, after, in_val):
        self.after = after
        self.in_val = in_val
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(runner.iter)
        if not self.in_val and runner.iter + 1 == self.after:
            os.kill(os.getpid(), signal.SIGTERM)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        assert batch_idx == 0 or runner.iter != self.after, 'validation goes on'
        if self.in_val and runner.iter == self.after:
            if self.in_val == 'lost':
                raise Lost
            os.kill(os.getpid(), signal.SIGTERM)

    def after_val_epoch(self, runner, metrics=None):
        assert metrics['images'] == 7
        self.seen.append(f'val {runner.iter}')


def run(work_dir, after=0, in_val=False, resume=False, train_cfg=EPOCHS, loader=ASPECT, accumulate=1, **checkpoint):
    checkpoint = dict(
        dict(
            type='CheckpointHook',
            interval=1,
            max_keep_ckpts=1,
            save_best='images',
            rule='greater',
            by_epoch=train_cfg['by_epoch'],
        ),
        **checkpoint,
    )
    torch.manual_seed(int(resume))
    runner = DetRunner(
        model=ValNet(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        default_scope='mmdet',
        resume=resume,
        train_cfg=train_cfg,
        default_hooks=dict(checkpoint=checkpoint, logger=None),
        log_level='ERROR',
        val_dataloader=dict(LOADER, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg=dict(),
        val_evaluator=[Count()],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9), accumulative_counts=accumulate),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=6),
            dict(type='MultiStepLR', by_epoch=True, milestones=[1, 2], gamma=0.5),
        ],
        randomness=dict(seed=3),
        experiment_name=f'{work_dir}{after}{in_val}{resume}'.replace('/', '_'),
    )
    watch = Signal(after, in_val)
    runner.register_hook(watch)
    runner.register_hook(CBNHook())
    if in_val == 'lost':
        with pytest.raises(Lost):
            runner.train()
        return None, watch.seen
    if after:
        with pytest.raises(Interrupted) as caught:
            runner.train()
        assert caught.value.exit_code == 143 and os.path.isfile(caught.value.checkpoint)
        return caught.value.checkpoint, watch.seen
    runner.train()
    return runner, watch.seen


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """What the runs that nothing stops do."""
    return {
        name: run(tmp_path_factory.mktemp(name), train_cfg=cfg, interval=2)
        for name, cfg in (('epochs', EPOCHS), ('iters', ITERS))
    }


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth') if not path.name.startswith('best'))


@pytest.mark.parametrize('after', [1, 4, 5, 11])
@pytest.mark.parametrize('kind, cfg', [('epochs', EPOCHS), ('iters', ITERS)])
def test_after_an_iteration(tmp_path, whole, kind, cfg, after):
    uninterrupted, seen = whole[kind]
    path, first = run(tmp_path, after, train_cfg=cfg, interval=2)
    assert (tmp_path / 'last_checkpoint').read_text() == path
    assert first == seen[: seen.index(after - 1) + 1]
    resumed, rest = run(tmp_path, resume=True, train_cfg=cfg, interval=2)
    assert first + rest == seen and equal(state(uninterrupted), state(resumed))
    assert names(tmp_path) == ['epoch_3.pth' if kind == 'epochs' else 'iter_12.pth']  # the interrupted one is gone


@pytest.mark.parametrize('kind, cfg', [('epochs', EPOCHS), ('iters', ITERS)])
@pytest.mark.parametrize('interval, after', [(1, 4), (2, 4), (1, 12)])
def test_in_validation_which_is_made_up_for(tmp_path, whole, kind, cfg, interval, after):
    uninterrupted, seen = whole[kind]
    path, first = run(tmp_path, after, in_val=True, train_cfg=cfg, interval=interval)
    assert first == seen[: seen.index(after - 1) + 1]
    kept = f'epoch_{after // 4}.pth' if kind == 'epochs' and interval == 1 else f'iter_{after}.pth'
    assert path == str(tmp_path / kept) and names(tmp_path) == [kept]
    resumed, rest = run(tmp_path, resume=True, train_cfg=cfg, interval=interval)
    assert first + rest == seen and equal(state(uninterrupted), state(resumed))


@pytest.mark.parametrize('kind, cfg', [('epochs', EPOCHS), ('iters', ITERS)])
@pytest.mark.parametrize('after', [4, 12])
def test_lost_in_validation_which_is_made_up_for(tmp_path, whole, kind, cfg, after):
    uninterrupted, seen = whole[kind]
    _, first = run(tmp_path, after, in_val='lost', train_cfg=cfg, interval=4 if kind == 'iters' else 1)
    resumed, rest = run(tmp_path, resume=True, train_cfg=cfg, interval=2)
    assert first + rest == seen and equal(state(uninterrupted), state(resumed))


def test_twice_leaves_one(tmp_path, whole):
    run(tmp_path, 5, interval=3)
    run(tmp_path, 7, resume=True, interval=3)
    assert names(tmp_path) == ['iter_7.pth']
    resumed, _ = run(tmp_path, resume=True, interval=3)
    assert names(tmp_path) == ['epoch_3.pth'] and equal(state(whole['epochs'][0]), state(resumed))


def test_gradients_that_wait_are_not_lost(tmp_path):
    path, seen = run(tmp_path, 5, accumulate=2)
    assert path.endswith('iter_5.pth')
    resumed, _ = run(tmp_path, resume=True, accumulate=2)
    assert equal(state(resumed), state(run(tmp_path / 'whole', accumulate=2)[0]))


def test_display_is_closed_however_the_run_ends(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(ProgressHook, 'close_display', lambda self, runner: closed.append(runner))
    monkeypatch.setattr(Signal, 'after_train_iter', lambda *args, **kwargs: 1 / 0)
    register = DetRunner.register_hook
    monkeypatch.setattr(
        DetRunner,
        'register_hook',
        lambda self, hook, *args: [
            register(self, hook, *args),
            isinstance(hook, Signal) and register(self, ProgressHook()),
        ],
    )
    with pytest.raises(ZeroDivisionError):
        run(tmp_path)
    assert len(closed) == 1


def test_only_the_periodic_lines_are_hidden():
    hidden = [('logger_hook', 'after_train_iter'), ('logger_hook', 'after_val_iter')]
    shown = [('logger_hook', 'after_val_epoch'), ('checkpoint_hook', 'after_train_iter')]
    assert [hide_periodic(SimpleNamespace(module=module, funcName=name)) for module, name in hidden + shown] == [
        False,
        False,
        True,
        True,
    ]
