"""The loop of a worker: a script that does one piece of work over and over, in an interpreter of its own.

It imports nothing of this package but a file that needs torch alone: other detectors' environments need not have it. It
is given the number of a pipe for its answers, its settings as JSON, and on standard input lines: 'time' does the work
once and answers with its seconds, 'peak' with the most memory that it holds, 'profile' with the operations that take
longest.
"""

import gc
import importlib.util
import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch

_spec = importlib.util.spec_from_file_location('measure', Path(__file__).parents[2] / 'measure.py')
measure = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(measure)


def profile(work):
    """The operations that take longest, [[name, seconds, calls], ...], and all seconds."""
    with torch.profiler.profile() as found:
        work()
    rows = [(event.key, event.self_cpu_time_total / 1e6, event.count) for event in found.key_averages()]
    return sorted(rows, key=lambda row: -row[1])[:10], sum(row[1] for row in rows)


def mixed(settings):
    """A context of mixed precision, if the settings want it."""
    return torch.autocast(settings['device'], torch.bfloat16) if settings['amp'] else nullcontext()


def main(prepare):
    """Prepare the work that the settings name, do it twice, and then as the lines say.

    Args:
        prepare: takes the settings, and returns a function without arguments.
    """
    answers, settings = os.fdopen(int(sys.argv[1]), 'w'), json.loads(sys.argv[2])
    device = settings.get('device', 'cpu')
    if settings.get('threads'):
        torch.set_num_threads(settings['threads'])
    work = prepare(settings)
    for _ in range(settings.get('warmup', 2)):
        result = work()

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    answer(result if isinstance(result, (int, float, list)) else None)
    for line in sys.stdin:
        if line.strip() == 'peak':
            answer(measure.peak_bytes(work, device))
            continue
        if line.strip() == 'profile':
            answer(profile(work))
            continue
        gc.collect()
        if device == 'cuda':
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == 'cuda':
            torch.cuda.synchronize()
        answer(time.perf_counter() - start)
