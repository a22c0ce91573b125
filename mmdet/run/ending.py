"""What the command-line tools share: how they end."""

import gc
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable

import torch.distributed as dist

from mmdet.run.interrupt import Interrupted
from mmdet.run.ranks import message, others_fault, rank_label


def run_main(main: Callable[[], None]) -> int:
    """Run a tool; a failure prints the traceback and then, as the last line, what was wrong. Returns exit code.

    Of several processes each does, its rank before the last line.

    An interrupted training's last line is the command that resumes it, its code 128 and the signal's number.
    """
    code, all_ended = _run(main)
    if all_ended:
        _leave_process_group()
    return code


def _run(main: Callable[[], None]) -> tuple[int, bool]:
    """Exit code, and whether the other processes have come to the same end."""
    first = os.environ.get('RANK', '0') == '0'
    try:
        main()
    except Interrupted as stop:
        if first:
            sys.stdout.flush()
            print(f'\n{stop}', file=sys.stderr)
        return stop.exit_code, True
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130, False
    except Exception as error:
        _say(error, first)
        return 1, False
    finally:
        for worker in multiprocessing.active_children():  # data loaders', for which the exit would wait 5 seconds
            worker.terminate()
    return 0, True


def _say(error: Exception, first: bool) -> None:
    """Every rank says its own, in one piece, as others write to the same terminal."""
    fault = others_fault(error)
    if fault:
        sys.stderr.write(f'\n{rank_label()}error: {fault} ({str(error).splitlines()[0]})\n')
        return
    # Before there is a group all fail alike, over the command line or the config.
    trace = traceback.format_exc() + '\n' if first or dist.is_initialized() else ''
    sys.stderr.write(f'{trace}{rank_label()}error: {message(error)}\n')


def _leave_process_group() -> None:
    """End the group's threads, which at the interpreter's end may abort the process (pytorch issue 190489).

    Not after a failure: to end the group while others are in a collective may wait for ever.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()  # the runner's cycles hold the wrapped model, and that the group
        dist.destroy_process_group()
