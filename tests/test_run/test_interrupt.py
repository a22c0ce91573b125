"""What signals do to a training and its data loaders' workers."""

import os
import signal
import subprocess
import time
from functools import partial

import pytest
from torch.utils.data import DataLoader

from mmdet.run import interrupt
from mmdet.run.ending import run_main
from mmdet.run.interrupt import Interrupted, agreed_to_stop, asked_to_stop, shield_worker, stop_signals


class Quit(Exception):
    pass


@pytest.fixture(autouse=True)
def nothing_is_ignored():
    """Also where the tests run under nohup or in a shell's background."""
    before = {signum: signal.signal(signum, signal.SIG_DFL) for signum in interrupt.SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]

    def leave(code):
        raise Quit(code)

    monkeypatch.setattr(interrupt.time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(interrupt.os, '_exit', leave)
    monkeypatch.delenv('TORCHELASTIC_RUN_ID', raising=False)
    return now


@pytest.mark.parametrize('signum', interrupt.SIGNALS)
def test_the_first_is_kept_and_the_second_ends(clock, capfd, signum):
    handlers = list(map(signal.getsignal, interrupt.SIGNALS))
    with stop_signals():
        assert asked_to_stop() == agreed_to_stop() == 0
        os.kill(os.getpid(), signum)
        assert asked_to_stop() == agreed_to_stop() == signum
        clock[0] += 0.5
        os.kill(os.getpid(), signum)  # the same request, passed on
        clock[0] += 1
        if signum == signal.SIGHUP:  # kernel and shell both send it
            os.kill(os.getpid(), signum)
            signum = signal.SIGINT
        with pytest.raises(Quit, match=str(128 + signum)):
            os.kill(os.getpid(), signum)
    assert asked_to_stop() == 0 and list(map(signal.getsignal, interrupt.SIGNALS)) == handlers
    assert 'saving a checkpoint; once more to quit' in capfd.readouterr().err


def test_torchrun_passes_on_late_and_what_the_shell_ignores(clock, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_signals():
            os.kill(os.getpid(), signal.SIGINT)
            assert asked_to_stop() == 0
        monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'x')
        with stop_signals():
            os.kill(os.getpid(), signal.SIGINT)
            clock[0] += 3
            os.kill(os.getpid(), signal.SIGINT)
            assert asked_to_stop() == signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


def test_last_line_and_exit_code(capsys):
    def stopped():
        error = Interrupted(signal.SIGTERM, 'w/iter_3.pth')
        error.resume_command = 'python tools/train.py c.py --resume'
        raise error

    assert run_main(stopped) == 143
    assert capsys.readouterr().err.splitlines()[-2:] == [
        'stopped by SIGTERM; saved to w/iter_3.pth. To resume:',
        'python tools/train.py c.py --resume',
    ]


def test_workers_outlive_signals_but_not_the_trainer_s():
    started = []
    loader = DataLoader(range(100), num_workers=1, worker_init_fn=partial(shield_worker, started.append))
    batches = iter(loader)
    next(batches)
    [worker] = batches._workers
    for name in ('-TERM', '-INT'):
        subprocess.run(['kill', name, str(worker.pid)], check=True)
    time.sleep(0.2)
    assert worker.is_alive() and len(list(batches)) == 99

    batches = iter(loader)
    [worker] = batches._workers
    next(batches)
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0
