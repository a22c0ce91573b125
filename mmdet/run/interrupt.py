"""Signals that ask a training to stop: Ctrl-C, SIGTERM and SIGUSR1 (a cluster takes the machine back), SIGHUP (a lost
terminal)."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmengine.dist import all_reduce, get_rank

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Interrupted(KeyboardInterrupt):
    """A training ended by a signal.

    Args:
        signum: the signal.
        checkpoint: where the state was saved.
    """

    def __init__(self, signum: int, checkpoint: str | None = None) -> None:
        super().__init__(signum, checkpoint)
        self.signum = signum
        self.checkpoint = checkpoint
        self.resume_command: str | None = None

    @property
    def exit_code(self) -> int:
        return 128 + self.signum

    def __str__(self) -> str:
        text = f'stopped by {signal.Signals(self.signum).name}'
        if self.checkpoint:
            text += f'; saved to {self.checkpoint}'
        return text + (f'. To resume:\n{self.resume_command}' if self.resume_command else '')


class _State:
    """What the handler knows; one for the process, as signals are."""

    owner = 0  # workers that are forked inherit the handler
    signum = 0
    since = 0.0
    terminals: tuple[int, ...] = ()  # standard output and error, where they are one


def _say(text: str) -> None:
    # Neither print nor logging: both may be in the middle of a line, with their locks held.
    if get_rank() == 0:
        os.write(2, (('\r\x1b[2K' if os.isatty(2) else '') + text + '\n').encode())


def _leave_terminal() -> None:
    # Writing to it is an error from now on, which would end the training before it has saved.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in _State.terminals:
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _means_it(signum: int) -> bool:
    return signum != signal.SIGHUP and (signum == signal.SIGINT or 'SLURM_JOB_ID' not in os.environ)


def _handle(signum: int, frame) -> None:
    if os.getpid() != _State.owner:
        return
    now = time.monotonic()
    if signum == signal.SIGHUP:
        _leave_terminal()
    if not _State.signum:
        _State.signum, _State.since = signum, now
        _say(
            f'{signal.Signals(signum).name}: finishing the iteration and saving a checkpoint; once more to quit at once'
        )
    # The same request may come twice: from the cluster, and passed on by torchrun. Nobody is there to ask twice after
    # a SIGHUP, which kernel and shell both send; Slurm warns and then insists.
    elif _means_it(signum) and now - _State.since > (5 if 'TORCHELASTIC_RUN_ID' in os.environ else 1):
        _say('quit without saving')
        os._exit(128 + signum)


@contextmanager
def stop_signals() -> Iterator[None]:
    """Inside, the first signal is kept for :func:`asked_to_stop` and the second ends the process.

    A signal that the process was told to ignore (SIGHUP by nohup, SIGINT in a shell's background) stays ignored, but
    under torchrun, which passes it on and then waits. Does nothing outside the main thread.
    """
    _State.owner, _State.signum = os.getpid(), 0
    _State.terminals = tuple(filter(os.isatty, (1, 2)))
    before = {}
    if threading.current_thread() is threading.main_thread():
        for signum in SIGNALS:
            if signal.getsignal(signum) != signal.SIG_IGN or 'TORCHELASTIC_RUN_ID' in os.environ:
                before[signum] = signal.signal(signum, _handle)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _State.signum = 0


def asked_to_stop() -> int:
    """The signal that this process has received inside :func:`stop_signals`, or 0."""
    return _State.signum


#: in the place of a signal: a process has failed
FAILED = 1 << 10


def agreed_to_stop(failed: bool = False) -> int:
    """The signal that any process has received, :data:`FAILED` if one has ``failed``, or 0; the same in all.

    A collective of one integer.
    """
    signum = torch.tensor(FAILED if failed else _State.signum)
    all_reduce(signum, 'max')
    return int(signum)


def _wait_for_trainer(trainer: int) -> None:
    while os.getppid() == trainer:  # a worker with a batch that nobody fetches would not notice
        received = signal.sigtimedwait([signal.SIGTERM], 2)
        if received is not None and received.si_pid == trainer:
            break
    os._exit(0)


def shield_worker(then: Callable[[int], None] | None, worker_id: int) -> None:
    """A data loader worker's initialization that leaves signals to the trainer, and then calls ``then``.

    Ctrl-C and clusters signal every process; a trainer without its workers could not finish the iteration. SIGTERM
    from the trainer itself still ends the worker, and so does the trainer's end.
    """
    for signum in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, 'sigtimedwait'):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_wait_for_trainer, args=(os.getppid(),), daemon=True).start()
    if then is not None:
        then(worker_id)
