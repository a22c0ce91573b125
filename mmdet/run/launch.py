"""Several processes through torchrun, for ``--gpus`` and the shell scripts (python -m mmdet.run.launch GPUS ...)."""

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from mmdet.options import whole


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


def launch(number: int, words: list[str], restarts: int = 0) -> int:
    """Run a script on ``number`` processes of this machine, through torchrun.

    On several machines with the variables NNODES, NODE_RANK, MASTER_ADDR and PORT; NNODES=2:4 for 2 to 4 of them, which
    may come and go.

    Args:
        words: the script, or ``-m`` and a module, and its arguments.
        restarts: if a process fails, all begin again, at most so many times.

    Returns:
        The exit code of the process that failed first, or 128 and the number of the signal that ended it or torchrun,
        whose story the commands tell.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    env = os.environ
    # torchrun kills processes so many seconds after it passed a signal on: an iteration, and a checkpoint
    env.setdefault('TORCH_ELASTIC_SHUTDOWN_TIMEOUT', '60')
    # else processes that are started again find the addresses of those before (torch 2.14)
    env.setdefault('TORCH_DISABLE_SHARE_RDZV_TCP_STORE', '1')
    env.setdefault('MMDET_STARTED', str(int(time.time())))  # checkpoints that are older are another run's
    # also where the package is not installed but on the launcher's path
    env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), env.get('PYTHONPATH')]))
    try:
        main(['--nproc_per_node', str(number), '--max-restarts', str(restarts), *_address(restarts), *words])
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        print(f'error: rank {rank} failed first, with exit code {code}', file=sys.stderr)
        return code
    return 0


def _address(restarts: int) -> list[str]:
    """torchrun's options that say where the processes meet."""
    env = os.environ
    nodes, host, port = env.get('NNODES', '1'), env.get('MASTER_ADDR', '127.0.0.1'), env.get('PORT', '29500')
    if nodes == '1' and not env.get('PORT'):
        return ['--standalone']  # a free port: two runs on one machine don't meet
    if restarts == 0 and ':' not in nodes:
        rank = env.get('NODE_RANK', '0')
        return ['--nnodes', nodes, '--node_rank', rank, '--master_addr', host, '--master_port', port]
    # machines find each other anew after a failure
    meeting = ('--rdzv-backend', 'c10d', '--rdzv-endpoint', f'{host}:{port}', '--rdzv-id', env.get('RUN_ID', 'mmdet'))
    return ['--nnodes', nodes, *meeting]


def launch_command(words: list[str]) -> int:
    """:func:`launch` by the words of a command line: GPUS SCRIPT ARGS, with ``--max-restarts N`` anywhere.

    Raises:
        ValueError: as :func:`check_processes`.
    """
    number = check_processes(words[0] if words else '')
    own = argparse.ArgumentParser(prog='dist_train.sh', add_help=False, allow_abbrev=False)
    own.add_argument('--max-restarts', type=whole(0), default=0)
    args, rest = own.parse_known_args(words[1:])
    return launch(number, [*rest, '--launcher', 'pytorch'], args.max_restarts)


def relaunch(words: list[str], gpus: int | None, restarts: int | None) -> int | None:
    """:func:`launch` of the running command on ``gpus`` processes; None if it is not asked for.

    Args:
        words: the command's arguments, of which ``--gpus`` and ``--max-restarts`` are taken out.

    Raises:
        ValueError: as :func:`check_processes`; restarts without processes to start again.
    """
    if gpus is None:
        if restarts is not None:
            raise ValueError(f'--max-restarts {restarts}: needs --gpus, the number of processes')
        return None
    kept = without_options(words, '--gpus', '--max-restarts')
    itself = ['-m', *sys.argv[0].split()] if sys.argv[0].startswith('mmdet ') else [sys.argv[0]]
    return launch(check_processes(str(gpus)), [*itself, *kept, '--launcher', 'pytorch'], restarts or 0)


def without_options(words: list[str], *names: str) -> list[str]:
    """A command line without some options, which have one value each."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word.partition('=')[0] in names:
            skip = '=' not in word
        else:
            kept.append(word)
    return kept


def command_words(tool: str, command: str) -> list[str]:
    """How the running command was called: by the script ``tool``, 'python .../train.py', or 'mmdet train'."""
    return ['python', sys.argv[0]] if Path(sys.argv[0]).name == tool else ['mmdet', command]


if __name__ == '__main__':
    try:
        sys.exit(launch_command(sys.argv[1:]))
    except ValueError as problem:
        sys.exit(f'error: {problem}')
