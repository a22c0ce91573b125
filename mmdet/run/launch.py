"""torchrun for the shell scripts: python -m mmdet.run.launch GPUS [options of torchrun] SCRIPT ARGS..."""

import os
import sys

import torch


def check_processes(text: str) -> int:
    """Number of processes for this machine, from a command line.

    Raises:
        ValueError: not a positive integer, more than there are GPUs, or, without GPUs, more than 4 for each core.
    """
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f'GPUS={text}: the number of processes must be an integer of 1 or more')
    number, gpus, cores = int(text), torch.cuda.device_count(), os.cpu_count() or 1
    if gpus and number > gpus:
        raise ValueError(f'GPUS={text}: this machine has {gpus} GPUs; ask for at most {gpus}')
    if not gpus and number > 4 * cores:
        raise ValueError(
            f'GPUS={text}: this machine has no GPU and {cores} cores; ask for at most {4 * cores} processes'
        )
    return number


def restarted() -> float | None:
    """Since when the run is going on if a launcher has started this process again (torchrun, Slurm), else None.

    Seconds since 1970; 0 if that is not known.
    """
    if any(int(os.environ.get(name) or 0) > 0 for name in ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT')):
        return float(os.environ.get('MMDET_STARTED') or 0)
    return None


def launch(number: int, words: list[str]) -> int:
    """Run torchrun; the exit code is that of the process that failed first, or 128 and the number of the signal that
    ended it or torchrun, whose story the tools tell."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    # torchrun kills processes so many seconds after it passed a signal on: an iteration, and a checkpoint
    os.environ.setdefault('TORCH_ELASTIC_SHUTDOWN_TIMEOUT', '60')
    # else processes that are started again find the addresses of those before (torch 2.14)
    os.environ.setdefault('TORCH_DISABLE_SHARE_RDZV_TCP_STORE', '1')
    try:
        main(['--nproc_per_node', str(number), *words])
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        print(f'error: rank {rank} failed first, with exit code {code}', file=sys.stderr)
        return code
    return 0


if __name__ == '__main__':
    try:
        processes = check_processes(sys.argv[1] if len(sys.argv) > 1 else '')
    except ValueError as problem:
        sys.exit(f'error: {problem}')
    sys.exit(launch(processes, sys.argv[2:]))
