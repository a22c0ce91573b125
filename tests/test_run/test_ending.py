"""How the tools end under a launcher."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPT = """
import os
import sys
from pathlib import Path
sys.path.insert(0, 'tests')
from conftest import load_tool
from mmdet.engine import DetRunner
from mmdet.run.ending import run_main
from mmdet.run.interrupt import Interrupted

def group_s_threads():
    names = [task.read_text().strip() for task in Path('/proc/self/task').glob('*/comm')]
    return sum('gloo' in name for name in names)

def train_and_raise(runner, train=DetRunner.train):  # the traceback then holds the runner
    train(runner)
    print('inside', group_s_threads())
    if sys.argv[1] != '0':
        raise {'143': Interrupted(15), '1': ValueError('no')}[sys.argv[1]]

DetRunner.train = train_and_raise
assert run_main(lambda: load_tool('tools/train.py').main(sys.argv[2:])) == int(sys.argv[1])
print('after', group_s_threads(), flush=True)
if sys.argv[1] == '1':
    os._exit(0)  # the threads that are left may abort the process
"""


@pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='threads are counted in /proc')
@pytest.mark.parametrize('code', [0, pytest.param(143, marks=pytest.mark.slow), 1])
def test_the_process_group_s_threads_end_with_the_run_but_not_with_a_failure(tiny_config, tmp_path, code):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    env = {
        **os.environ,
        'PYTHONPATH': str(ROOT),
        'OMP_NUM_THREADS': '1',
        'RANK': '0',
        'LOCAL_RANK': '0',
        'WORLD_SIZE': '1',
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(port),
    }
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            SCRIPT,
            str(code),
            tiny_config,
            '--launcher',
            'pytorch',
            '--work-dir',
            tmp_path,
            '--cfg-options',
            'train_cfg.max_epochs=1',
            'train_cfg.val_interval=1',
        ],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    inside, after = (int(done.stdout.rpartition(f'{word} ')[2].split()[0]) for word in ('inside', 'after'))
    assert done.returncode == 0 and inside > 0, done.stdout[-3000:]
    assert after == (inside if code == 1 else 0)
