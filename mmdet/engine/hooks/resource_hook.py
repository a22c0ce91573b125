"""Says how long a run took to start and how much memory it holds."""

import os
import time
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdet.registry import HOOKS

_IMPORTED = time.time()


def process_start() -> float:
    """Return when this process was started, seconds since the epoch; when this file was imported, without /proc."""
    try:
        fields = Path('/proc/self/stat').read_text().rsplit(')', 1)[1].split()
        uptime = float(Path('/proc/uptime').read_text().split()[0])
        age = uptime - int(fields[19]) / os.sysconf('SC_CLK_TCK')
        return time.time() - age
    except (OSError, IndexError, ValueError):
        return _IMPORTED


def resident_bytes(pid: int | None = None) -> int:
    """Return the resident memory of a process and its children in bytes; pages they share count for each of them.

    Args:
        pid: of the process; None: this one.

    Returns:
        0 where there is no /proc.
    """
    pid = pid or os.getpid()
    try:
        statm = Path(f'/proc/{pid}/statm').read_text().split()
        children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    except (OSError, IndexError):
        return 0
    own = int(statm[1]) * os.sysconf('SC_PAGE_SIZE')
    return own + sum(resident_bytes(int(child)) for child in children)


@HOOKS.register_module()
class ResourceHook(Hook):
    """Logs seconds from the command to the first iteration, and the peak of resident memory.

    Args:
        interval: iterations between two looks at the memory (trainer and data loader workers together).

    Example:
        The commands add it to every run; with more looks::

            custom_hooks = [dict(type='ResourceHook', interval=5)]
    """

    priority = 'VERY_LOW'

    def __init__(self, interval: int = 20) -> None:
        self.interval = interval
        self.peak = 0
        self._started = False

    def _look(self) -> None:
        self.peak = max(self.peak, resident_bytes())

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Log before the first iteration how long the start took."""
        if not self._started:
            self._started = True
            runner.logger.info(f'start: {time.time() - process_start():.1f} s from command to first iteration')

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Look at the memory every ``interval`` iterations."""
        if self.every_n_train_iters(runner, self.interval):
            self._look()

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Look at the memory every ``interval`` iterations of a validation."""
        if self.every_n_inner_iters(batch_idx, self.interval):
            self._look()

    def after_train(self, runner: Runner) -> None:
        """Log the peak."""
        self._look()
        runner.logger.info(f'peak resident memory: {self.peak / 2**20:.0f} MiB (trainer and workers)')
