"""Ctrl-C in a terminal, and what it says about going on."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, load_tool

from mmdet.cli.training import resume_command

OPTIONS = ['train_cfg.max_epochs=4', 'train_cfg.val_interval=9', 'default_hooks.checkpoint.max_keep_ckpts=1']


def environment(**extra):
    env = {key: value for key, value in os.environ.items() if key not in ('CI', 'RANK', 'MMDET_PROGRESS')}
    return dict(
        env, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', PYTHON=sys.executable, TERM='xterm', COLUMNS='100', **extra
    )


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/train.py')


def weights(path):
    checkpoint = torch.load(path, weights_only=False)
    assert checkpoint['meta']['iter'] == 12
    return checkpoint['state_dict'], checkpoint['optimizer']['state'], checkpoint['cbn_window']


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


def in_terminal(words, at, then):
    """Run a training in a terminal, call ``then(its other end)`` once the screen has ``at``; process and screen."""
    main_end, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, 'tools/train.py', *words],
        cwd=ROOT,
        env=environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        preexec_fn=_own_terminal,
    )
    os.close(terminal)
    output, asked, began = '', False, time.time()
    while time.time() - began < 120:
        try:
            if select.select([main_end], [], [], 1)[0]:
                output += os.read(main_end, 65536).decode()
        except (OSError, ValueError):  # one of the ends is closed
            break
        if not asked and re.search(at, output):
            asked = True
            then(main_end)
    return process, output


def test_ctrl_c_in_a_terminal_and_on(tiny_config, tmp_path, tool):
    words = [str(tiny_config), '--work-dir', str(tmp_path / 'run'), '--cfg-options', *OPTIONS]
    process, output = in_terminal(words, r'Epoch 2/4\b', lambda end: os.write(end, b'\x03'))
    output = re.sub(r'\x1b\[[\d;?]*[A-Za-z]', '', output)
    assert process.wait(60) == 130, output
    assert re.search(r'Epoch 1/4  \S{20}  1/3  loss \d\.\d+ .*lr \d\.\de-\d\d.* img/s  ETA 0:', output)
    assert re.search(r'Epoch 1/4 trained in 0:0\d:\d\d: loss', output) and 'Epoch(train)' not in output
    [log] = (tmp_path / 'run').glob('*/*.log')
    assert len(re.findall(r'Epoch\(train\) .*images_per_second: ', log.read_text())) >= 3
    last = output.strip().splitlines()[-1]
    assert last == f'python tools/train.py {" ".join(words)} --resume'

    assert (tmp_path / 'run/last_checkpoint').read_text() in output.splitlines()[-2]
    tool.main(last.split()[2:])
    assert sorted(path.name for path in (tmp_path / 'run').glob('[ei]*.pth')) == ['epoch_4.pth']
    assert weights(tmp_path / 'run/epoch_4.pth')


@pytest.mark.slow
def test_terminal_is_lost(tiny_config, tmp_path):
    words = [str(tiny_config), '--work-dir', str(tmp_path / 'run'), '--cfg-options', *OPTIONS]
    process, _ = in_terminal(words, r'Epoch 2/4\b', os.close)
    assert process.wait(60) == 128 + signal.SIGHUP
    # before the epoch's first iteration the state is that of the epoch's end before
    saved = {
        str(path): torch.load(path, weights_only=False)['meta']['iter'] for path in (tmp_path / 'run').glob('*_?.pth')
    }
    assert max(saved, key=saved.get) == (tmp_path / 'run/last_checkpoint').read_text() and 3 <= max(saved.values()) < 12


def _own_terminal():
    import fcntl
    import termios

    os.setsid()
    for signum in (signal.SIGINT, signal.SIGHUP):  # which tests in the background, or under nohup, ignore
        signal.signal(signum, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize(
    'words, expected',
    [
        ('c.py --work-dir w --amp', 'python tools/train.py c.py --work-dir w --amp --resume'),
        ('c.py --amp bf16 --resume', 'python tools/train.py c.py --amp bf16 --resume'),
        ('--amp c.py', 'python tools/train.py --amp c.py --resume'),
        ('c.py --resume', 'python tools/train.py c.py --resume'),
        ('--resume w/x.pth c.py --amp', 'python tools/train.py c.py --amp --resume'),
        (
            'c.py --resume=w/x.pth --cfg-options a=1 b=[2,3]',
            "python tools/train.py c.py --cfg-options a=1 'b=[2,3]' --resume",
        ),
        ('--weights w.pth c.py --amp', 'python tools/train.py c.py --amp --resume'),
        ('c.py --launcher slurm', 'python tools/train.py c.py --launcher slurm --resume'),
        ('--amp c.py --resume --launcher pytorch', 'tools/dist_train.sh c.py 4 --amp --resume'),
    ],
)
def test_resume_command(tool, monkeypatch, words, expected):
    monkeypatch.setattr(sys, 'argv', ['tools/train.py'])
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    assert resume_command(words.split(), tool.parse_args(words.split())) == expected
    monkeypatch.setattr(sys, 'argv', ['mmdet train'])
    told = resume_command(words.split(), tool.parse_args(words.split()))
    if 'launcher pytorch' in words:
        assert told == 'mmdet train --amp c.py --gpus 4 --resume'
    else:
        assert told == expected.replace('python tools/train.py', 'mmdet train')


@pytest.fixture(scope='module')
def start_two(tiny_config, tmp_path_factory):
    def start(folder):
        command = [
            'tools/dist_train.sh',
            str(tiny_config),
            '2',
            '--work-dir',
            str(folder),
            '--cfg-options',
            *OPTIONS,
            'train_cfg.max_epochs=6',
        ]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    whole = tmp_path_factory.mktemp('two')
    start(whole).communicate(timeout=300)
    return start, weights(whole / 'epoch_6.pth')


@pytest.mark.slow
@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_two_processes(start_two, tiny_config, tmp_path, signum):
    start, whole = start_two
    process = start(tmp_path)
    for line in process.stdout:
        if 'Epoch(train)' in line and '[2][1/2]' in line:
            break
    os.killpg(process.pid, signum)  # of torchrun alone: its processes have groups of their own
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signum, rest
    last = rest.strip().splitlines()[-1]
    assert last.startswith(f'tools/dist_train.sh {tiny_config} 2 --work-dir {tmp_path}') and '--resume' in last
    subprocess.run(last.split(), cwd=ROOT, env=environment(), check=True, timeout=300)
    resumed = weights(tmp_path / 'epoch_6.pth')
    assert len(resumed[2]) == 2 and same(resumed, whole)
