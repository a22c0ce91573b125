"""A disk that fills up: nothing whole is lost, and what can go on does."""

import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from mmengine.visualization import LocalVisBackend

from mmdet.engine.runner.runner import _forgiving

OPTIONS = ['train_cfg.val_interval=9', 'default_hooks.checkpoint.max_keep_ckpts=1', 'randomness.seed=1']
# Files of more than LIMIT bytes cannot be written while epoch FIRST to LAST is saved.
HOOK = """
import os, resource
from mmengine.hooks import Hook
from mmdet.registry import HOOKS

@HOOKS.register_module()
class Full(Hook):
    priority = 'NORMAL'

    def after_train_epoch(self, runner):
        first, last = map(int, os.environ['FULL'].split())
        full = first <= runner.epoch + 1 <= last
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if full else most, most))
"""


@pytest.fixture
def train(tiny_config, tmp_path):
    (tmp_path / 'full.py').write_text(HOOK)
    (tmp_path / 'config.py').write_text(
        f"_base_ = '{tiny_config}'\ncustom_imports = dict(imports=['full'])\ncustom_hooks = [dict(type='Full')]\n"
    )

    def run(epochs, first, last, *words, code=0):
        env = {**os.environ, 'PYTHONPATH': f'{ROOT}:{tmp_path}', 'OMP_NUM_THREADS': '1', 'FULL': f'{first} {last}'}
        done = subprocess.run(
            [
                sys.executable,
                'tools/train.py',
                str(tmp_path / 'config.py'),
                '--work-dir',
                str(tmp_path / 'run'),
                *words,
                '--cfg-options',
                *OPTIONS,
                f'train_cfg.max_epochs={epochs}',
            ],
            cwd=ROOT,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
        assert done.returncode == code, done.stdout[-3000:]
        return done.stdout

    return run


def names(folder):
    return sorted(path.name for path in folder.glob('epoch*.pth')), [path.name for path in folder.glob('.*.tmp*')]


@pytest.mark.skipif(not hasattr(signal, 'SIGXFSZ') or not hasattr(resource, 'RLIMIT_FSIZE'), reason='no RLIMIT_FSIZE')
def test_checkpoints_that_cannot_be_written(train, tmp_path):
    output = train(4, 2, 3)
    warnings = [line for line in output.splitlines() if 'tried again when the next one is due' in line]
    assert len(warnings) == 2 and 'run/epoch_2.pth: cannot be written: File too large; it needs ' in warnings[0]
    assert ' MiB are free in ' in warnings[0] and 'whole is ' in warnings[0] and 'run/epoch_1.pth' in warnings[0]
    assert names(tmp_path / 'run') == (['epoch_4.pth'], [])
    assert (tmp_path / 'run/last_checkpoint').read_text().endswith('epoch_4.pth')
    torch.load(tmp_path / 'run/epoch_4.pth', weights_only=False)


def test_the_run_ends_after_three_and_can_be_resumed(train, tmp_path):
    output = train(6, 2, 9, code=1)
    last = output.strip().splitlines()
    assert 'error: OSError: checkpoint ' in output and 'epoch_4.pth: cannot be written: File too large' in output
    assert (
        '3 times in a row, the run ends. To go on once there is room:' in last[-2]
        and last[-1].startswith(f'python tools/train.py {tmp_path}/config.py')
        and last[-1].endswith('--resume')
    )
    assert names(tmp_path / 'run') == (['epoch_1.pth'], [])
    assert (tmp_path / 'run/last_checkpoint').read_text().endswith('epoch_1.pth')
    assert 'resumed epoch: 1' in train(2, 9, 9, '--resume')
    assert names(tmp_path / 'run') == (['epoch_2.pth'], [])


def test_what_cannot_be_logged_ends_nothing(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmdet.engine.runner.runner.print_log', lambda text, *_: said.append(text))
    backend = LocalVisBackend(str(tmp_path), scalar_save_file='s.json')
    os.symlink('/dev/full', tmp_path / 's.json')  # as a disk without room
    add = _forgiving(backend.add_scalars, 'LocalVisBackend')
    for step in (1, 2):
        add(dict(loss=1.0), step=step)
    assert len(said) == 1 and said[0].startswith('LocalVisBackend: what it logs cannot be written ([Errno 28]')
    with pytest.raises(AssertionError):  # other errors are not forgiven
        add(1)
