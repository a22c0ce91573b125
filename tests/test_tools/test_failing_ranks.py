"""What several processes do when one of them fails, stops or is lost."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from mmdet.run.ranks import check_timeout, message, others_fault

CONFIG = """
_base_ = '{base}'
custom_imports = dict(imports=['failing'], allow_failed_imports=False)
custom_hooks = [dict(type='Failing')]
model = dict(neck=dict(norm_cfg=dict(_delete_=True, type='CBN+GN', num_groups=4)))
train_cfg = dict(max_epochs=2)
val_cfg = val_dataloader = val_evaluator = None
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1, max_keep_ckpts=2), logger=dict(interval=1))
randomness = dict(seed=5)
"""
# FAIL: 'rank iteration what', once for each run of the launcher (FAIL_MARK is made then)
FAILING = r"""
import os, signal, time
from pathlib import Path
from mmengine.hooks import Hook
from mmdet.registry import HOOKS

@HOOKS.register_module()
class Failing(Hook):

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        rank, iteration, what = os.environ.get('FAIL', '-1 -1 no').split()
        mark = Path(os.environ['FAIL_MARK'])
        if runner.rank != int(rank) or runner.iter != int(iteration) or mark.exists():
            return
        mark.touch()
        if what == 'raise':
            raise ValueError('image /data/x.png: cannot be read')
        os.kill(os.getpid(), dict(stop=signal.SIGSTOP, kill=signal.SIGKILL)[what])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        # in one piece, where several processes write
        os.write(1, f"\nOWN {runner.rank} {runner.iter} {float(outputs['loss'])}\n".encode())
"""


@pytest.fixture(scope='module')
def folder(tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    (folder / 'failing.py').write_text(FAILING)
    (folder / 'config.py').write_text(CONFIG.format(base=tiny_config))
    return folder


@pytest.fixture
def start(folder, tmp_path):
    """Start a training on several processes; returns the process."""
    processes = []

    def start(
        *options, number=2, fail='-1 -1 no', words=(), work_dir=tmp_path / 'run', mark=tmp_path / 'mark', **extra
    ):
        command = [
            'tools/dist_train.sh',
            folder / 'config.py',
            number,
            *words,
            '--work-dir',
            work_dir,
            *(['--cfg-options', *options] if options else []),
        ]
        env = {
            **os.environ,
            'PYTHONPATH': f'{ROOT}:{folder}',
            'OMP_NUM_THREADS': '1',
            'PYTHON': sys.executable,
            'FAIL': fail,
            'FAIL_MARK': str(mark),
            **extra,
        }
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def end(process, timeout=240):
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def load(path):
    checkpoint = torch.load(path, weights_only=False)
    return {key: checkpoint[key] for key in ('state_dict', 'optimizer', 'cbn_window')}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


def test_each_rank_says_its_own(start):
    code, output = end(start(fail='1 1 raise'))
    assert code == 1, output
    assert output.count('[rank 1] error: ValueError: image /data/x.png: cannot be read') == 1
    lost = r'\[rank (0)\] error: the connection to another rank is lost; that one says why'
    assert len(re.findall(lost, output)) == len(set(re.findall(lost, output)))
    assert len(re.findall(r'\[rank \d\] error', output)) == 1 + len(re.findall(lost, output))
    assert 'error: rank 1 failed first, with exit code 1' in output
    # logged is the mean over ranks, which a hook sees on each
    first = re.findall(r'OWN (\d) 0 (\S+)', output)
    assert len(first) == 2 and len({value for _, value in first}) == 1


@pytest.mark.slow
def test_a_rank_that_stops_is_named_within_the_timeout(start):
    process = start('env_cfg.dist_cfg.timeout=15', fail='1 1 stop')
    lines, stopped = [], None
    for line in process.stdout:
        lines.append(line)
        if 'OWN 1 0 ' in line:
            stopped = time.monotonic()
        if 'has not answered' in line:
            break
    took = time.monotonic() - stopped
    code, rest = end(process)
    output = ''.join(lines) + rest
    # the launcher ends the others with the first that names it
    assert re.search(
        r'\[rank 0\] error: rank 1 \(\S+, process \d+\) has not answered for 1\d s; the job ends '
        r'\(env_cfg.dist_cfg.timeout=15\)',
        output,
    ), output[-3000:]
    assert not re.search(r'rank 0 \(\S+, process \d+\) has not answered', output), output[-3000:]
    assert code == 1 and took < 20


@pytest.mark.parametrize('timeout', ['a', -1, 0, True, float('inf'), None])
def test_a_timeout_that_is_none(timeout):
    with pytest.raises(ValueError, match='config c.py, env_cfg.dist_cfg.timeout: must be a number of seconds above 0'):
        check_timeout(dict(timeout=timeout), 'config c.py')


def test_errors_of_workers_and_of_keys(monkeypatch):
    worker = (
        'Caught ValueError in DataLoader worker process 3.\nOriginal Traceback (most recent call last):\n  File\n'
        'OSError: no\n\nDuring handling\n\nValueError: image a.png: cannot be read'
    )
    assert message(ValueError(worker)) == 'ValueError: image a.png: cannot be read (in data loader worker 3)'
    assert message(KeyError("no 'a'")) == "KeyError: no 'a'"
    lost = RuntimeError('[pair.cc:545] Connection closed by peer [127.0.0.1]:3')
    assert others_fault(lost) == ''
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert 'lost' in others_fault(lost) and others_fault(ValueError(str(lost))) == ''
    assert 'timeout' in others_fault(RuntimeError('Timed out waiting 2000ms for recv operation to complete'))


def test_restarted_from_the_newest_checkpoint(start, tmp_path):
    code, output = end(start(work_dir=tmp_path / 'whole'))
    assert code == 0, output[-3000:]
    names = [path.name for path in (tmp_path / 'whole').glob('iter_*.pth')]
    last = max(names, key=lambda name: int(re.sub(r'\D', '', name)))
    # an older run's checkpoints in the same folder are not this one's
    work_dir = tmp_path / 'parts'
    work_dir.mkdir()
    torch.save(dict(state_dict={}), work_dir / 'iter_99.pth')
    os.utime(work_dir / 'iter_99.pth', (1, 1))
    code, output = end(start(fail='1 2 kill', words=['--max-restarts', '2'], work_dir=work_dir))
    assert code == 0 and f'started again; going on from {work_dir}/iter_2.pth' in output, output[-3000:]
    assert same(load(work_dir / last), load(tmp_path / 'whole' / last))


@pytest.mark.slow
def test_killed_at_random_and_restarted(start, tmp_path):
    draw = random.Random(0)
    code, output = end(start('train_cfg.max_epochs=6', work_dir=tmp_path / 'whole'))
    assert code == 0, output[-3000:]
    names = [path.name for path in (tmp_path / 'whole').glob('iter_*.pth')]
    last = max(names, key=lambda name: int(re.sub(r'\D', '', name)))
    for attempt in range(5):
        work_dir = tmp_path / str(attempt)
        process = start(
            'train_cfg.max_epochs=6', words=['--max-restarts', '3'], work_dir=work_dir, mark=tmp_path / f'mark{attempt}'
        )
        kills, lines = 2, []
        wait = draw.randint(1, 8)
        for line in process.stdout:
            lines.append(line)
            wait -= 'OWN' in line
            if kills and wait <= 0:
                ranks = [pid for pid in _processes(f'train.py.*{work_dir} ') if b'LOCAL_RANK=' in _environ(pid)]
                time.sleep(draw.random() * 0.3)
                if ranks:
                    try:
                        os.kill(draw.choice(ranks), signal.SIGKILL)
                        kills -= 1
                        wait = draw.randint(3, 8)
                    except ProcessLookupError:
                        pass
        code = process.wait(240)
        output = ''.join(lines)
        assert code == 0, output[-3000:]
        assert output.count('started again') >= 2, output[-3000:]
        assert same(load(work_dir / last), load(tmp_path / 'whole' / last))


def _processes(pattern):
    found = subprocess.run(['pgrep', '-f', pattern], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


def _environ(pid):
    try:
        return open(f'/proc/{pid}/environ', 'rb').read()
    except OSError:
        return b''


# -- Slurm ------------------------------------------------------------------------------------------------------------

SRUN = r"""#!{python}
# What srun does for one machine: so many processes, signals passed on, all ended when one fails.
import os, signal, subprocess, sys
words = sys.argv[1:]
number = next(int(word.partition('=')[2]) for word in words if word.startswith('--ntasks='))
start = words.index(os.environ['PYTHON'])
open(os.environ['SRUN_LOG'], 'a').write(' '.join(words[:start]) + '\n')
env = dict(os.environ, SLURM_JOB_ID=os.environ.get('SLURM_JOB_ID', '77'), SLURM_NTASKS=str(number),
           SLURM_STEP_NODELIST='127.0.0.1')
tasks = [subprocess.Popen(words[start:], env=dict(env, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)))
         for i in range(number)]
for name in ('TERM', 'INT', 'USR1'):
    signal.signal(getattr(signal, 'SIG' + name), lambda signum, frame: [task.send_signal(signum) for task in tasks])
codes = [task.wait() for task in tasks]
sys.exit(max(codes, key=abs) if min(codes) >= 0 else 128 - min(codes))
"""


@pytest.mark.slow
@pytest.mark.parametrize('signum', [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_saves_is_queued_again_and_goes_on(folder, tmp_path, signum):
    binaries = tmp_path / 'bin'
    binaries.mkdir()
    (binaries / 'srun').write_text(SRUN.format(python=sys.executable))
    (binaries / 'scontrol').write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol\n')
    for path in binaries.iterdir():
        path.chmod(0o755)
    port = str(random.randint(20000, 30000))

    def run(work_dir, *words, **extra):
        env = {
            **os.environ,
            'PATH': f'{binaries}:{os.environ["PATH"]}',
            'PYTHONPATH': f'{ROOT}:{folder}',
            'GPUS': '2',
            'OMP_NUM_THREADS': '1',
            'PYTHON': sys.executable,
            'SRUN_LOG': str(tmp_path / 'srun'),
            'MASTER_PORT': port,
            'SLURM_JOB_ID': '77',
            'FAIL_MARK': str(tmp_path / 'mark'),
            **extra,
        }
        command = ['tools/slurm_train.sh', 'gpu', 'name', str(folder / 'config.py'), str(work_dir), *words]
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    options = ['--cfg-options', 'train_cfg.max_epochs=5', 'default_hooks.checkpoint.interval=10']
    code, output = end(run(tmp_path / 'whole', *options))
    assert code == 0, output[-3000:]
    assert '-p gpu --job-name=name --gres=gpu:2 --ntasks=2 --ntasks-per-node=2' in (tmp_path / 'srun').read_text()
    process = run(tmp_path / 'parts', *options)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if 'OWN 0 1 ' in line:
            process.send_signal(signum)
            break
    code, rest = end(process)
    assert code == 128 + signum, ''.join(lines) + rest
    saved = [path.name for path in (tmp_path / 'parts').glob('iter_*.pth')]
    assert len(saved) == 1 and 'OWN 0 9 ' not in rest
    # Slurm requeues by itself the jobs that it ends with SIGTERM
    assert (tmp_path / 'scontrol').is_file() == (signum == signal.SIGUSR1)
    if signum == signal.SIGUSR1:
        assert (tmp_path / 'scontrol').read_text() == 'requeue 77\n'
    code, output = end(run(tmp_path / 'parts', *options, SLURM_RESTART_COUNT='1'))
    assert code == 0 and 'started again; going on from' in output, output[-3000:]
    assert same(load(tmp_path / 'parts/iter_10.pth'), load(tmp_path / 'whole/iter_10.pth'))


def test_slurm_without_srun(folder, tmp_path):
    env = {key: value for key, value in os.environ.items() if not key.startswith('SLURM')}
    done = subprocess.run(
        [
            sys.executable,
            'tools/train.py',
            str(folder / 'config.py'),
            '--launcher',
            'slurm',
            '--work-dir',
            str(tmp_path),
        ],
        cwd=ROOT,
        env={**env, 'PYTHONPATH': f'{ROOT}:{folder}'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and 'error: KeyError: --launcher slurm: SLURM_PROCID is not set' in done.stderr


# -- machines that come and go ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_lost_machine_is_replaced(start, tmp_path):
    """Two launchers of one process each; one is killed with its process and started again."""
    port = str(random.randint(20000, 30000))
    options = ['train_cfg.max_epochs=20', 'default_hooks.checkpoint.max_keep_ckpts=3']
    more = dict(NNODES='1:2', PORT=port, RUN_ID='test', TORCH_ELASTIC_SHUTDOWN_TIMEOUT='5')
    words = ['--max-restarts', '5']
    first = start(*options, number=1, words=words, **more)
    lines = []
    time.sleep(3)  # the first one holds the meeting place
    second = start(*options, number=1, words=words, **more)
    for line in first.stdout:
        lines.append(line)
        if 'OWN 0 4 ' in line:
            break
    os.killpg(second.pid, signal.SIGKILL)
    for pid in _processes(f'train.py.*{tmp_path}/run '):
        if b'GROUP_RANK=1' in _environ(pid):
            os.kill(pid, signal.SIGKILL)
    for line in first.stdout:
        lines.append(line)
        if 'started again' in line:
            break
    third = start(*options, number=1, words=words, **more)
    code, output = end(first)
    code3, output3 = end(third)
    output = ''.join(lines) + output
    assert code == 0 and code3 == 0, output[-3000:] + output3[-3000:]
    assert output.count('started again; going on from') >= 1
