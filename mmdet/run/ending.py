"""What the command-line tools share: how they end."""

import faulthandler
import gc
import logging
import multiprocessing
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist
from mmengine.logging import MMLogger

from mmdet.run.interrupt import Interrupted
from mmdet.run.prepare import setup
from mmdet.run.ranks import message, others_fault, rank_label

PACKAGE = Path(__file__).parents[1]


def run_main(main: Callable[[], int | None]) -> int:
    """Run a command; returns its exit code.

    An error that one of mmdet's checks has raised is one line on the terminal, ``error: ...``. The traceback comes too
    with ``--debug`` or MMDET_DEBUG=1, and of any other error, which nobody has foreseen; it is always in the run's log
    file. Of several processes each says its own, with its rank.

    An interrupted training's last line is the command that resumes it, its code 128 and the signal's number. A process
    that a library brings down (SIGSEGV and its like) writes first where it was.
    """
    setup()
    if not faulthandler.is_enabled():
        with suppress(AttributeError, OSError, RuntimeError):  # there is no standard error
            faulthandler.enable()
    if not sys.warnoptions:
        _silence_libraries()
    code, all_ended = _run(main)
    if all_ended:
        _leave_process_group()
    return code


def _silence_libraries() -> None:
    """What other packages say of their own future, and mmengine of the threads that it sets, is not for the user."""
    for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.filterwarnings('ignore', category=kind, module=r'(?!mmdet|__main__)')
    warnings.filterwarnings('ignore', 'Setting (OMP|MKL)_NUM_THREADS', UserWarning)


def _run(main: Callable[[], int | None]) -> tuple[int, bool]:
    """Exit code, and whether the other processes have come to the same end."""
    first = os.environ.get('RANK', '0') == '0'
    try:
        code = main() or 0
    except Interrupted as stop:
        if first:
            sys.stdout.flush()
            print(f'\n{stop}', file=sys.stderr)
        return stop.exit_code, True
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130, False
    except Exception as error:
        if isinstance(error, BrokenPipeError) and not _log_files():  # who reads the output has had enough of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE, False
        _say(error, first)
        return 1, False
    finally:
        for worker in multiprocessing.active_children():  # data loaders', for which the exit would wait 5 seconds
            worker.terminate()
    return code, True


def _say(error: Exception, first: bool) -> None:
    """Every rank says its own, in one piece, as others write to the same terminal."""
    fault = others_fault(error)
    if fault:
        sys.stderr.write(f'\n{rank_label()}error: {fault} ({str(error).splitlines()[0]})\n')
        return
    text = f'{rank_label()}error: {message(error)}\n'
    trace = f'{traceback.format_exc()}\n'
    _log(trace + text)
    told = foreseen(error) and '--debug' not in sys.argv and os.environ.get('MMDET_DEBUG', '0') == '0'
    # Before there is a group all fail alike, over the command line or the config.
    sys.stderr.write(text if told or not (first or dist.is_initialized()) else trace + text)


def foreseen(error: BaseException) -> bool:
    """Whether an error was raised by a statement of mmdet's, with words for whoever runs the command.

    mmengine's registries raise what a part has raised anew, and torch what a data loader's worker has.
    """
    worker = re.match(r'Caught \w+ in DataLoader worker process \d+\.\n', str(error))
    if worker:
        frames = re.findall(r'  File "(.+)", line \d+, in .*\n    (.*)', str(error))
        path, line = frames[-1] if frames else ('', '')
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
        path, line = (frame.filename, frame.line or '') if frame else ('', '')
        if f'{os.sep}mmengine{os.sep}' in path and line.startswith('raise') and error.__context__ is not None:
            return foreseen(error.__context__)
    return Path(path).is_relative_to(PACKAGE) and line.startswith('raise')


def _log_files() -> list[tuple[MMLogger, logging.FileHandler]]:
    """Of the run, if one has begun."""
    return [
        (logger, handler)
        for logger in MMLogger._instance_dict.values()
        for handler in logger.handlers
        if isinstance(handler, logging.FileHandler)
    ]


def _log(text: str) -> None:
    for logger, handler in _log_files():
        handler.emit(logger.makeRecord(logger.name, logging.ERROR, '', 0, text, (), None))


def _leave_process_group() -> None:
    """End the group's threads, which at the interpreter's end may abort the process (pytorch issue 190489).

    Not after a failure: to end the group while others are in a collective may wait for ever.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()  # the runner's cycles hold the wrapped model, and that the group
        dist.destroy_process_group()
