"""What is said before the first iteration of learning rates for another batch, and of warm-ups that are too long."""

import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import ConstantLR, LinearLR, MultiStepLR, OptimWrapper
from torch.utils.data import DataLoader

from mmdet.engine.runner.schedule import misfits

KINDS = dict(LinearLR=LinearLR, ConstantLR=ConstantLR, MultiStepLR=MultiStepLR)


def run(batch=2, world=1, auto=None, steps=1, schedulers=(), epochs=10, images=40):
    """The sentences for a run of 20 iterations an epoch, by default."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.02)
    wrapper = OptimWrapper(optimizer, accumulative_counts=steps)
    loader = DataLoader(range(images), batch)
    built = []
    for scheduler in schedulers:
        arguments = {key: value for key, value in scheduler.items() if key not in ('type', 'convert_to_iter_based')}
        kind = KINDS[scheduler['type']]
        if scheduler.get('convert_to_iter_based'):
            built.append(kind.build_iter_from_epoch(optimizer, epoch_length=len(loader), **arguments))
        else:
            built.append(kind(optimizer, **arguments))
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(lr=0.02)), param_scheduler=list(schedulers)))
    return list(
        misfits(
            SimpleNamespace(
                auto_scale_lr=auto,
                train_dataloader=loader,
                optim_wrapper=wrapper,
                world_size=world,
                param_schedulers=built,
                cfg=cfg,
                max_iters=epochs * len(loader),
                train_loop=SimpleNamespace(val_begin=1, max_epochs=epochs),
                model=torch.nn.Conv2d(1, 1, 1),
                _val_loop=None,
            )
        )
    )


BASE = dict(enable=False, base_batch_size=16)


@pytest.mark.parametrize(
    'arguments, said',
    [
        (dict(auto=BASE), ['for 16 images a batch, here are 2', 'lr=0.0025 or add --auto-scale-lr', 'size=2']),
        (dict(auto=BASE, world=4), ['here are 8', 'lr=0.01 or add']),
        (dict(auto=BASE, steps=4), ['here are 8', 'lr=0.01; if']),  # --auto-scale-lr would make it 0.0025
        (dict(auto=BASE, world=8), None),
        (dict(auto=BASE, steps=8), None),
        (dict(auto=dict(BASE, enable=True)), None),
        (dict(auto=dict(enable=False)), None),
        (dict(), None),
    ],
)
def test_learning_rate_for_another_batch(arguments, said):
    lines = run(**arguments)
    assert len(lines) == (said is not None) and all(part in lines[0] for part in said or ())


STEPS = dict(type='MultiStepLR', milestones=[8], by_epoch=True)
WARM_UP = dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0)


@pytest.mark.parametrize(
    'scheduler, said',
    [
        (dict(WARM_UP, end=500), 'takes 500 of 200 iterations: set param_scheduler.1.end=20$'),
        (dict(WARM_UP, end=101), 'takes 101 of 200'),
        (dict(WARM_UP, end=100), None),
        (dict(WARM_UP, by_epoch=True, end=8), 'takes 160 of 200 iterations: set param_scheduler.1.end=1$'),
        (dict(WARM_UP, by_epoch=True, end=8, convert_to_iter_based=True), 'takes 160 .*param_scheduler.1.end=1$'),
        (dict(type='ConstantLR', factor=0.1, by_epoch=False, end=150), 'takes 150 of 200'),
        (dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False, end=200), None),  # a decay
        (dict(WARM_UP, begin=50, end=200), None),
    ],
)
def test_warm_up_that_is_too_long(scheduler, said):
    lines = run(schedulers=[STEPS, scheduler])
    assert len(lines) == (said is not None) and all(re.search(said, line) for line in lines), lines
