"""Time, peak memory, and a GPU's launches and waits of a piece of work."""

import ctypes
import gc
import math
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds of ``work()``; ``device`` is 'cpu' or 'cuda'."""
    if device == 'cpu':
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    work()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3


def _resident(key: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def peak_bytes(work: Callable[[], object], device: str) -> float:
    """Most memory in bytes that ``work()`` holds beyond what is held before; NaN where the system doesn't say."""
    gc.collect()
    if device != 'cpu':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL('libc.so.6').malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')  # resets the peak of the resident memory
    except OSError:
        return math.nan
    before = _resident('VmRSS')
    work()
    return _resident('VmHWM') - before


class Traffic(NamedTuple):
    """Between the processor and the GPU."""

    launches: int  # of kernels
    reads: int  # copies of the GPU's memory to the processor's, each of which waits
    waits: int  # for the stream, an event or the device


def count_traffic(events: Iterable[tuple[str, int]]) -> Traffic:
    """Count in a profile's events, given as (name, number); names are CUDA's, ``cudaLaunchKernel`` say."""
    patterns = (r'cu(da)?Launch(Cooperative)?Kernel', 'Memcpy DtoH', r'cu(da)?(Stream|Event|Device|Ctx)Synchronize')
    events = list(events)
    return Traffic(*(sum(number for name, number in events if re.match(pattern, name)) for pattern in patterns))


def traffic(work: Callable[[], object]) -> Traffic:
    """Of ``work()``, by torch's profiler; all 0 without CUDA."""
    with torch.profiler.profile() as profile:
        work()
    return count_traffic((event.key, event.count) for event in profile.key_averages())
