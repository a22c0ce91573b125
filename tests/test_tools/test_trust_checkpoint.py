"""A checkpoint that runs code, as a user meets it on the command line."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, load_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet.registry import MODELS
from mmdet.run.ending import run_main


class Code:
    """Unpickled, it leaves a file named after the process."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return eval, (f'open("{self.folder}/ran-" + str(__import__("os").getpid()), "w").close()',)


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    """Weights of the tiny model, and code."""
    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(str(tiny_config)).model)
    path = tmp_path / 'code.pth'
    torch.save(dict(meta={}, state_dict=model.state_dict(), more=Code(tmp_path)), path)
    return path


def processes(folder):
    return len(list(folder.glob('ran-*')))


@pytest.mark.parametrize('name', ['test', 'train', 'resume', 'pretrained'])
def test_refused(tiny_config, checkpoint, tmp_path, capfd, name):
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = '{tiny_config}'\n")
    arguments = dict(
        test=[checkpoint],
        train=['--cfg-options', f'load_from={checkpoint}'],
        resume=['--resume', checkpoint],
        pretrained=[],
    )[name]
    if name == 'pretrained':
        config.write_text(
            f'{config.read_text()}model = dict(backbone=dict(init_cfg=dict(\n'
            f"    _delete_=True, type='Pretrained', checkpoint='{checkpoint}')))\n"
        )
    tool = 'test' if name == 'test' else 'train'
    module = load_tool(f'tools/{tool}.py')
    assert run_main(lambda: module.main([str(config), '--work-dir', str(tmp_path / 'work'), *map(str, arguments)])) == 1
    last = capfd.readouterr().err.rpartition('error: ')[2]
    assert last.startswith(f'ValueError: checkpoint {checkpoint}: holds eval,') and '--trust-checkpoint' in last
    assert not processes(tmp_path) and not list(tmp_path.glob('work/*.pth'))


@pytest.mark.slow
def test_trusted_by_every_process(tiny_config, checkpoint, tmp_path):
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable}
    command = ['tools/dist_test.sh', tiny_config, checkpoint, 2, '--work-dir', tmp_path / 'work', '--trust-checkpoint']
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'coco/bbox_mAP' in done.stdout + done.stderr and processes(tmp_path) == 2
