"""A run that is killed and resumed ends where the run that was never stopped ends, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]

# Random pipeline, 2 epochs of 3 batches; process KILL_RANK dies after iteration KILL_AT, without a word.
CONFIG = """
_base_ = '{base}'
custom_imports = dict(imports=['killer'], allow_failed_imports=False)
custom_hooks = [dict(type='Killer')]
model = dict(neck=dict(norm_cfg=dict(_delete_=True, type='CBN+GN', num_groups=4)))
train_dataloader = dict(dataset=dict(_delete_=True, type='MultiImageMixDataset', dataset={inner}, pipeline=[
    dict(type='CopyPaste'),
    dict(type='RandomChoiceResize', scales=[(64, 64), (80, 80), (96, 96)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]))
train_cfg = dict(max_epochs=2, val_interval=1)
optim_wrapper = dict(accumulative_counts=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5),
    dict(type='MultiStepLR', begin=0, end=2, by_epoch=True, milestones=[1], gamma=0.5)]
randomness = dict(seed=None)
"""
# Every transform that draws random numbers.
INNER = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='Albu',
        transforms=[dict(type='RandomBrightnessContrast', p=0.8), dict(type='ShiftScaleRotate', p=0.8)],
        bbox_params=dict(
            type='BboxParams',
            format='pascal_voc',
            label_fields=['gt_bboxes_labels', 'gt_ignore_flags'],
            filter_lost_elements=True,
        ),
    ),
    dict(type='RandomAffine'),
    dict(type='Expand', ratio_range=(1, 2)),
    dict(type='MinIoURandomCrop'),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.7, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64), allow_negative_crop=True),
    dict(type='Pad', size=(64, 64)),
]
KILLER = """
import os, signal
from mmengine.hooks import Hook
from mmdet.registry import HOOKS

@HOOKS.register_module()
class Killer(Hook):
    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == int(os.environ['KILL_AT']) and runner.rank == int(os.environ['KILL_RANK']):
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope='module')
def train(tiny_config, tmp_path_factory):
    """Run tools/train.py in a process of its own; returns its output."""
    folder = tmp_path_factory.mktemp('kill')
    (folder / 'killer.py').write_text(KILLER)
    inner = Config.fromfile(tiny_config).train_dataloader.dataset.to_dict()
    (folder / 'config.py').write_text(CONFIG.format(base=tiny_config, inner=dict(inner, pipeline=INNER)))

    def run(work_dir, *options, kill_at=0, resume=False, processes=1):
        kill_rank = processes - 1
        command = (
            ['tools/dist_train.sh', folder / 'config.py', processes]
            if processes > 1
            else [sys.executable, 'tools/train.py', folder / 'config.py']
        )
        command += [
            '--work-dir',
            work_dir,
            *(['--resume'] if resume else []),
            *(['--cfg-options', *options] if options else []),
        ]
        env = {
            **os.environ,
            'PYTHONPATH': f'{ROOT}:{folder}',
            'OMP_NUM_THREADS': '1',
            'PYTHON': sys.executable,
            'KILL_AT': str(kill_at),
            'KILL_RANK': str(kill_rank),
        }
        done = subprocess.run(
            list(map(str, command)),
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert (done.returncode == 0) == (kill_at == 0), done.stdout[-3000:]
        return done.stdout

    return run


def differences(a, b, path):
    """Where two nested containers of tensors are not equal bit for bit."""
    if type(a) is not type(b):
        return [path]
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, (list, tuple)):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [path]
        return [place for key in a for place in differences(a[key], b[key], f'{path}.{key}')]
    return [] if a == b else [path]


def load(path):
    checkpoint = torch.load(path, weights_only=False)
    assert checkpoint['meta']['iter'] == 6 and checkpoint['optimizer']['state']
    # At an epoch's end the schedulers have made one more step than after its last iteration.
    return {key: checkpoint[key] for key in ('state_dict', 'optimizer', 'cbn_window')}, checkpoint['meta']['seed']


BY_ITER = ('default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=1')
WORKERS = ('train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True')
NO_VAL = ('val_cfg=None', 'val_dataloader=None', 'val_evaluator=None')


def test_killed_and_resumed(train, tmp_path):
    # In the middle of an epoch, with workers, with a seed that was drawn.
    train(tmp_path / 'a', *BY_ITER, *WORKERS, kill_at=2)
    assert not (tmp_path / 'a/iter_3.pth').exists()
    assert 'resumed epoch: 0, iter: 2\n' in train(tmp_path / 'a', *BY_ITER, *WORKERS, resume=True)
    resumed, seed = load(tmp_path / 'a/iter_6.pth')

    train(tmp_path / 'whole', *BY_ITER, f'randomness.seed={seed}')
    whole, _ = load(tmp_path / 'whole/iter_6.pth')
    assert any(state['step'] == 6 for state in whole['cbn_window'][0].values())
    assert not differences(whole, resumed, '')


@pytest.mark.slow
def test_resumed_from_the_end_of_an_epoch(train, tmp_path):
    options = ('randomness.seed=3', *NO_VAL)
    train(tmp_path / 'whole', *options)
    train(tmp_path / 'b', *options, kill_at=4)
    assert 'resumed epoch: 1, iter: 3\n' in train(tmp_path / 'b', *options, resume=True)
    assert not differences(load(tmp_path / 'whole/epoch_2.pth')[0], load(tmp_path / 'b/epoch_2.pth')[0], '')


@pytest.mark.slow  # test_failing_ranks.py kills one of two, too
def test_two_processes_of_which_one_is_lost(train, tmp_path):
    options = BY_ITER + NO_VAL + ('randomness.seed=5', 'train_cfg.max_epochs=3')  # 3 epochs of 2 batches
    train(tmp_path / 'whole', *options, processes=2)
    train(tmp_path / 'parts', *options, processes=2, kill_at=3)
    assert not (tmp_path / 'parts/iter_4.pth').exists()
    train(tmp_path / 'parts', *options, processes=2, resume=True)
    whole, resumed = load(tmp_path / 'whole/iter_6.pth')[0], load(tmp_path / 'parts/iter_6.pth')[0]
    first, second = whole['cbn_window']
    assert first.keys() == second.keys()
    assert any(differences(first[name], second[name], name) for name in first)
    assert not differences(whole, resumed, '')
