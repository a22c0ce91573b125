"""Check the number of processes before they are started: python -m mmdet.utils.launch 4."""
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
        raise ValueError(f'GPUS={text}: this machine has no GPU and {cores} cores; ask for at most {4 * cores} '
                         'processes')
    return number


if __name__ == '__main__':
    try:
        check_processes(sys.argv[1] if len(sys.argv) > 1 else '')
    except ValueError as problem:
        sys.exit(f'error: {problem}')
