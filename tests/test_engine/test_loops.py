"""Runs of a small model that stop anywhere and are resumed, against runs that never stopped."""

import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmdet.engine import CBNHook, DetRunner, EpochBasedTrainLoop, IterBasedTrainLoop
from mmdet.engine.hooks import cbn_layers, gradient_hook
from mmdet.engine.runner import loops
from mmdet.ops.norm import CBN, conv_norm

LENGTH, BATCH = 7, 2  # 4 batches an epoch


class Noise(Dataset):
    """Samples that depend on all three generators."""

    loaded: list = []  # in this process

    def __len__(self):
        return LENGTH

    def get_data_info(self, index):
        return dict(width=1 + index % 2, height=2 - index % 2)

    def __getitem__(self, index):
        self.loaded.append(index)
        noise = torch.rand(3, 6, 6) + random.random() + np.random.rand()
        return dict(inputs=noise.float() + index)


class Net(BaseModel):
    norm_cfg: dict = {}

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = CBN(4, buffer_num=2, burnin=2, **self.norm_cfg)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(4, 1)

    def forward(self, inputs, mode='loss'):
        x = self.drop(conv_norm(self.conv, self.norm, torch.stack(inputs)).relu().mean((2, 3)))
        return dict(loss=(self.fc(x) - torch.randn(1)).square().mean())


class Stop(Exception):
    pass


class Stopper(Hook):
    """Records batches; raises after an iteration."""

    priority = 'LOWEST'

    def __init__(self, after=None):
        self.after = after
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append((runner.epoch, batch_idx, runner.iter))
        if runner.iter + 1 == self.after:
            raise Stop


LOADER = dict(dataset=Noise(), batch_size=BATCH, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True))


def run(work_dir, stop=None, resume=False, seed=None, loader=LOADER, train_cfg=None, accumulate=1, **checkpoint):
    by_iter = 'interval' in checkpoint
    hooks = dict(
        checkpoint=dict(type='CheckpointHook', by_epoch=not by_iter, **{'interval': 1, **checkpoint}), logger=None
    )
    stopper = Stopper(stop)
    torch.manual_seed(int(resume))  # the resumed run's first weights are others
    runner = DetRunner(
        model=Net(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        default_scope='mmdet',
        resume=resume,
        train_cfg=train_cfg or dict(by_epoch=True, max_epochs=3),
        default_hooks=hooks,
        log_level='ERROR',
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9), accumulative_counts=accumulate),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=6),
            dict(type='MultiStepLR', by_epoch=True, milestones=[1, 2], gamma=0.5),
        ],
        randomness=dict(seed=seed),
        experiment_name=f'{work_dir}{stop}{resume}'.replace('/', '_'),
    )
    runner.register_hook(stopper)
    runner.register_hook(CBNHook())
    try:
        runner.train()
    except Stop:
        pass
    iterator = getattr(runner.train_dataloader, '_iterator', None)
    if iterator is not None:  # persistent workers, which the garbage collector would wait for
        iterator._shutdown_workers()
    return runner, stopper.seen


def state(runner):
    """Everything that decides how a run goes on."""
    momentum = [entry['momentum_buffer'] for entry in runner.optim_wrapper.optimizer.state.values()]
    windows = [layer.window_state() for layer in cbn_layers(runner.model).values()]
    return dict(runner.model.state_dict()), momentum, windows, [s.state_dict() for s in runner.param_schedulers]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def check(tmp_path, stop, reload=None, **options):
    """Run whole, and in two parts; returns the whole run's and the second part's batches."""
    whole, seen = run(tmp_path / 'whole', seed=3, **options)
    run(tmp_path / 'parts', stop, seed=3, **options)
    options['loader'] = reload or options.get('loader', LOADER)
    second, rest = run(tmp_path / 'parts', resume=True, **options)
    assert equal(state(whole), state(second))
    assert whole.iter == second.iter == seen[-1][2] + 1 and whole.epoch == second.epoch
    return seen, rest


ASPECT = dict(LOADER, batch_sampler=dict(type='AspectRatioBatchSampler'))


@pytest.mark.parametrize('stop', range(1, 12))
def test_stopped_after_any_iteration(tmp_path, stop):
    seen, rest = check(tmp_path, stop, loader=ASPECT, interval=1)
    assert rest == seen[stop:] and seen[:6] == [(0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 0, 4), (1, 1, 5)]


@pytest.mark.parametrize('persistent', [False, True])
@pytest.mark.parametrize('checkpoint, first', [(dict(interval=2), 6), (dict(), 4)], ids=['mid-epoch', 'epoch'])
def test_with_workers(tmp_path, persistent, checkpoint, first):
    workers = dict(LOADER, num_workers=2, persistent_workers=persistent)
    seen, rest = check(tmp_path, 7, loader=workers, **checkpoint)
    assert rest == seen[first:]
    seen, rest = check(tmp_path / 'mixed', 7, loader=workers, reload=LOADER, **checkpoint)


def test_any_batch_sampler_skips_without_loading(tmp_path):
    run(tmp_path, 6, seed=3, interval=1)
    Noise.loaded.clear()
    run(tmp_path, 7, resume=True, interval=1)
    assert len(Noise.loaded) == BATCH


def test_drop_last_and_sampler_of_iterations(tmp_path):
    seen, rest = check(tmp_path, 4, loader=dict(LOADER, drop_last=True), interval=1)
    assert rest == seen[4:] and seen[3] == (1, 0, 3)  # 3 whole batches an epoch


def test_seed_that_was_drawn_is_that_of_the_resumed_run(tmp_path):
    first, _ = run(tmp_path / 'parts', 6, interval=1)
    assert first.seed is not None
    second, _ = run(tmp_path / 'parts', resume=True, interval=1)
    whole, _ = run(tmp_path / 'whole', seed=first.seed, interval=1)
    assert second.seed == first.seed and equal(state(whole), state(second))
    other, _ = run(tmp_path / 'other', seed=first.seed + 1, interval=1)
    assert not equal(state(other)[0], state(whole)[0])


@pytest.mark.parametrize('train_cfg', [dict(by_epoch=True, max_epochs=2), dict(by_epoch=False, max_iters=8)])
def test_samples_differ_between_epochs_and_seeds(tmp_path, train_cfg):
    samplers = [
        run(tmp_path / str(seed), seed=seed, train_cfg=train_cfg)[0].train_dataloader.batch_sampler for seed in (3, 4)
    ]
    assert [(sampler.seed, sampler.epoch) for sampler in samplers] == [(3, 1), (4, 1)]


def test_seed_of_the_sampler_in_the_config_stays(tmp_path):
    loader = dict(LOADER, sampler=dict(type='DefaultSampler', shuffle=True, seed=11))
    check(tmp_path, 5, loader=loader, interval=1)
    runner, _ = run(tmp_path / 'x', 1, seed=3, loader=loader)
    assert runner.train_dataloader.batch_sampler.sampler.seed == 11


@pytest.mark.parametrize('stop', [3, 4, 9])
@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
def test_loop_of_iterations(tmp_path, sampler, stop):
    loader = dict(ASPECT, sampler=dict(type=sampler, shuffle=True))
    check(tmp_path, stop, loader=loader, train_cfg=dict(type='IterBasedTrainLoop', max_iters=11), interval=1)


@pytest.mark.parametrize('stop, accumulate, interval', [(7, 2, 2), (3, 2, 3), (5, 4, 1), (7, 4, 1)])
def test_accumulation(tmp_path, monkeypatch, stop, accumulate, interval):
    """Also from a checkpoint within an accumulation."""
    said = []
    monkeypatch.setattr(gradient_hook, 'print_log', lambda text, *_: said.append(text))
    check(tmp_path, stop, accumulate=accumulate, interval=interval)
    assert not said


def test_gradients_that_an_older_checkpoint_does_not_have(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(gradient_hook, 'print_log', lambda text, *_: said.append(text))
    run(tmp_path, 3, seed=3, accumulate=2, interval=3)
    saved = torch.load(tmp_path / 'iter_3.pth', weights_only=False)
    assert len(saved.pop('gradients')) == 1
    torch.save(saved, tmp_path / 'iter_3.pth')
    _, rest = run(tmp_path, resume=True, accumulate=2, interval=3)
    assert rest[0] == (0, 3, 3) and 'iteration 3, inside an accumulation of 2, from a checkpoint that has no' in said[0]


def test_gradients_of_another_number_of_processes(tmp_path, monkeypatch):
    """Their mean is what each goes on with; a run with other counts, where none wait, leaves them out."""
    runner, _ = run(tmp_path, 3, seed=3, accumulate=2, interval=3)
    hook, names = gradient_hook.GradientHook(), dict(runner.model.named_parameters())
    saved = [{name: torch.full_like(value, number) for name, value in names.items()} for number in (1.0, 2.0, 6.0)]
    runner._resume, runner.train_loop._iter = True, 3
    runner.optim_wrapper.zero_grad()
    hook.after_load_checkpoint(runner, dict(gradients=saved))
    hook.before_train(runner)
    assert all((value.grad == 3).all() for value in names.values())
    runner.optim_wrapper.zero_grad()
    name, value = next(iter(names.items()))
    for odd in ('x', [1], [{name: 1}], [{name: value[:0]}], [{'other': value}]):
        hook.after_load_checkpoint(runner, dict(gradients=odd))
        with pytest.raises(ValueError, match=r'checkpoint .*gradients'):
            hook.before_train(runner)
    runner.optim_wrapper._accumulative_counts = 1
    hook.after_load_checkpoint(runner, dict(gradients=saved))
    hook.before_train(runner)
    assert all(value.grad is None for value in names.values())


def test_processes_of_which_one_has_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(loops, 'all_gather_object', lambda own: [own, 0])
    run(tmp_path, 4, seed=3, interval=2)
    with pytest.raises(RuntimeError, match=r'iterations \[4, 0\].*Every machine.*' + tmp_path.name):
        run(tmp_path, resume=True, interval=2)


@pytest.mark.parametrize(
    'norm',
    [
        dict(pool='exponential', compensation='secant'),
        dict(backprop='window'),
        dict(compensation='none', running_stats='pooled'),
        dict(sample_stride=2),
    ],
)
def test_every_kind_of_window(tmp_path, monkeypatch, norm):
    monkeypatch.setattr(Net, 'norm_cfg', norm)
    check(tmp_path, 6, interval=1)


def test_a_loader_built_by_the_caller_loads_and_throws_away(tmp_path):
    built = DataLoader(
        Noise(), batch_size=BATCH, collate_fn=lambda samples: dict(inputs=[sample['inputs'] for sample in samples])
    )
    run(tmp_path, 6, seed=3, loader=built, interval=1)
    Noise.loaded.clear()
    _, rest = run(tmp_path, resume=True, loader=built, interval=1)
    assert rest[0] == (1, 2, 6) and Noise.loaded[:LENGTH] == list(range(LENGTH))


def test_number_of_batches_that_changed(tmp_path):
    run(tmp_path, 6, seed=3, interval=1)
    _, rest = run(tmp_path, 9, resume=True, interval=1, loader=dict(LOADER, batch_size=1))
    assert rest == [(1, 3, 6), (1, 4, 7), (1, 5, 8)]  # half of 7 batches
    _, rest = run(tmp_path, resume=True, interval=1, loader=dict(LOADER, batch_size=1))
    assert rest[:2] == [(1, 6, 9), (2, 0, 10)]


def test_by_epoch_without_a_type_means_these_loops(tmp_path):
    assert type(run(tmp_path, 1)[0].train_loop) is EpochBasedTrainLoop
    runner, _ = run(tmp_path, 1, train_cfg=dict(by_epoch=False, max_iters=3))
    assert type(runner.train_loop) is IterBasedTrainLoop
