"""Trainings in processes of their own: started, waited for, stopped."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch

from mmdet.io.resuming import find_checkpoint

T = TypeVar('T', bound=Hashable)
#: seconds that trainings have to save their state
PATIENCE = 120


class Training(NamedTuple):
    """Holds one training's process."""

    process: subprocess.Popen
    slot: int
    start: float  # seconds since 1970
    output: Path
    begin: int  # of what it has written, among earlier sessions' output

    def reason(self) -> str:
        """Why it failed, by what it has written."""
        return reason_of(self.output.read_bytes()[self.begin :].decode(errors='replace'), self.process.returncode)


class Trainings(Generic[T]):
    """Runs trainings side by side, each under a key of the caller's.

    Args:
        jobs: at most so many at a time; they share cores or GPUs.
        processes: of each training.
    """

    def __init__(self, jobs: int, processes: int) -> None:
        self.jobs, self.processes = jobs, processes
        self.slots = list(range(jobs))  # that are free
        self.running: dict[T, Training] = {}

    def start(self, key: T, words: list[str], folder: Path, lock: int) -> None:
        """Start ``python -m`` and ``words``, with the work dir ``folder``/run; if it has a checkpoint, from that.

        Args:
            lock: file descriptor of :func:`locked`, which the training keeps if the caller is killed.
        """
        run, output = folder / 'run', folder / 'output.txt'
        resume = ['--resume'] if run.is_dir() and find_checkpoint(str(run)) else []
        slot = self.slots.pop(0)
        with open(output, 'ab') as file:
            begin = file.tell()
            process = subprocess.Popen(
                [sys.executable, '-m', *words, *resume],
                stdout=file,
                stderr=file,
                env=self.environment(slot),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C comes to the caller only
                pass_fds=(lock,),
            )
        self.running[key] = Training(process, slot, time.time(), output, begin)

    def environment(self, slot: int) -> dict[str, str]:
        """Of the training in a slot: its share of the GPUs, or else of the cores."""
        root = str(Path(__file__).parents[2])  # also where the package is not installed
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')])))
        count, gpus = self.processes, torch.cuda.device_count()
        if gpus:
            given = env.get('CUDA_VISIBLE_DEVICES')
            names = given.split(',')[:gpus] if given else [str(i) for i in range(gpus)]
            env['CUDA_VISIBLE_DEVICES'] = ','.join(names[(slot * count + i) % gpus] for i in range(count))
        else:
            env.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // (self.jobs * count))))
        return env

    def ended(self) -> dict[T, Training]:
        """Those that have ended since the last call."""
        found = {key: one for key, one in self.running.items() if one.process.poll() is not None}
        for key, training in found.items():
            del self.running[key]
            self.slots.insert(0, training.slot)
        return found

    def stop(self) -> dict[T, Training]:
        """Let what runs save its state, for :data:`PATIENCE` seconds or until Ctrl-C, and end it; what was stopped."""
        patience = time.time() + PATIENCE
        sent = signal.SIGTERM
        self._kill(sent)  # not SIGINT, which processes in the background ignore
        while any(one.process.poll() is None for one in self.running.values()):
            try:
                time.sleep(0.2)
            except KeyboardInterrupt:
                patience = 0
            if time.time() > patience and sent != signal.SIGKILL:
                sent = signal.SIGKILL
                self._kill(sent)
        return self.ended()

    def _kill(self, signum: int) -> None:
        for one in self.running.values():
            if one.process.poll() is None:
                os.killpg(one.process.pid, signum)


def reason_of(output: str, code: int) -> str:
    """Why a training failed, by what it has written."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r'(error: |\w*(Error|Exception|Interrupt)\b)', line)]
    if code < 0:
        fault = re.search(r'^Current thread .+\n\s*(.+)', output, re.MULTILINE)
        where = ' (out of memory?)' if code == -signal.SIGKILL else f' in {fault[1]}' if fault else ''
        return f'ended by {signal.Signals(-code).name}{where}'
    # torchrun ends with a report of its own
    own = [line for line in errors if line.startswith('error: ')]
    return (own or errors or lines or [f'exit code {code}'])[-1].removeprefix('error: ')


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Its number is handed to the trainings: the lock is held as long as one of them lives."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / '.lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RuntimeError(
                f'{folder}: another mmdet compare works here, or a training that one has left '
                'behind; wait for it, end it, or give another --work-dir'
            ) from None
        yield file.fileno()


@contextmanager
def signals() -> Iterator[None]:
    """A lost terminal and a cluster that wants its machine back are treated as Ctrl-C."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    before = {
        signum: signal.signal(signum, interrupt)
        for signum in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(signum) != signal.SIG_IGN
    }  # nohup
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
