"""The processes of one job: what each says when it fails, and who has stopped answering."""

import datetime
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from mmengine.model import BaseTTAModel, is_model_wrapper

#: seconds after which a silent rank ends the job, unless env_cfg.dist_cfg.timeout says otherwise (torch's for gloo)
TIMEOUT = 1800
# What gloo and NCCL say in the others when one process has ended
_LOST = re.compile(
    'connection (closed|reset|refused)|broken pipe|connectfullmesh|remote process exited|'
    'ncclremoteerror|timed out waiting|socket timeout|failed to recv',
    re.I,
)
_WORKER = re.compile(r'Caught (\w+) in DataLoader worker process (\d+)\.\n')


def bare(model: Any) -> Any:
    """Return a model without the wrappers that several processes, and test-time augmentation, have around it."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def rank_label() -> str:
    """'[rank 1] ' in a job of several processes, else ''."""
    return f'[rank {os.environ.get("RANK", "0")}] ' if int(os.environ.get('WORLD_SIZE', '1')) > 1 else ''


def message(error: BaseException) -> str:
    """An error's type and words, without the quotes that KeyError puts around them; of a data loader worker's error
    what it was there."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    worker = _WORKER.match(str(text))
    if worker:
        name, number = worker.groups()
        return f'{name}: {text.rpartition(chr(10) + name + ": ")[2].strip()} (in data loader worker {number})'
    return f'{type(error).__name__}: {text}'


def others_fault(error: BaseException) -> str:
    """What an error means that says only that another rank has ended or does not come, or ''."""
    found = _LOST.search(str(error)) if rank_label() and isinstance(error, RuntimeError) else None
    if found is None:
        return ''
    if 'time' in found.group().lower():
        return 'another rank did not come within env_cfg.dist_cfg.timeout'
    return 'the connection to another rank is lost; that one says why'


def slurm_environment() -> None:
    """Set the variables of torchrun from those of Slurm's ``srun``.

    Raises:
        KeyError: this process was not started by srun.
    """
    if 'SLURM_PROCID' not in os.environ:
        raise KeyError(
            '--launcher slurm: SLURM_PROCID is not set; start the command with srun, see tools/slurm_train.sh'
        )
    env = os.environ
    local = int(env.get('SLURM_LOCALID', '0'))
    gpus = torch.cuda.device_count()  # 1 where Slurm shows each process its own only
    env.update(
        RANK=env['SLURM_PROCID'],
        WORLD_SIZE=env.get('SLURM_NTASKS', '1'),
        LOCAL_RANK=str(local % gpus if gpus else local),
    )
    if 'MASTER_ADDR' not in env:
        nodes = env.get('SLURM_STEP_NODELIST') or env.get('SLURM_NODELIST') or ''
        env['MASTER_ADDR'] = _first_host(nodes)
    # two jobs on one machine do not meet
    env.setdefault('MASTER_PORT', str(20000 + int(env.get('SLURM_JOB_ID', '0')) % 20000))


def _first_host(nodes: str) -> str:
    if not re.search(r'[\[,]', nodes):
        return nodes or '127.0.0.1'
    try:
        return subprocess.run(
            ['scontrol', 'show', 'hostnames', nodes], capture_output=True, text=True, check=True
        ).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise RuntimeError(
            f'--launcher slurm: scontrol cannot say the first machine of {nodes} ({error}); set MASTER_ADDR'
        ) from None


def check_timeout(dist_cfg: dict, source: str) -> float:
    """``timeout`` in seconds, or the default; ValueError names ``source``, the config."""
    timeout = dist_cfg.get('timeout', TIMEOUT)
    if isinstance(timeout, datetime.timedelta):
        timeout = timeout.total_seconds()
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < float('inf'):
        raise ValueError(f'{source}, env_cfg.dist_cfg.timeout: must be a number of seconds above 0, got {timeout!r}')
    return timeout


class Watch:
    """Ends this process when another rank has been silent for most of ``timeout``, and says which one.

    Every rank counts up in the launcher's store, from a thread of its own, so a long computation is no silence; a
    stopped process, or a lost machine, is. Use as a context manager in every process.

    Args:
        timeout: in seconds. Of torch's collectives it is the same, and their message names nobody.
    """

    def __init__(self, timeout: float) -> None:
        self.limit = 0.8 * timeout
        self.interval = min(5.0, timeout / 20)
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> 'Watch':
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 and 'MASTER_ADDR' in os.environ:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * self.interval)

    def _watch(self) -> None:
        rank, world = dist.get_rank(), dist.get_world_size()
        try:
            # a connection of its own: a store's calls wait for each other
            server = dist.TCPStore(
                os.environ['MASTER_ADDR'],
                int(os.environ['MASTER_PORT']),
                is_master=False,
                timeout=datetime.timedelta(seconds=self.limit),
            )
            store = dist.PrefixStore(f'mmdet/watch/{os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")}', server)
            who = f'{socket.gethostname()}, process {os.getpid()}'
            names = [f'{other}' for other in range(world)]
            seen: dict[str, tuple[bytes, float]] = {}
            for count in self._beats():
                store.set(f'{rank}', f'{count} {who}')
                now = time.monotonic()
                if self._slept(now):
                    seen.clear()
                for other, value in zip(names, store.multi_get(names)):
                    if value != seen.get(other, (b'', 0.0))[0] or value == b'done':
                        seen[other] = value, now
                    elif now - seen[other][1] > self.limit:
                        self._give_up(other, value.decode().partition(' ')[2], now - seen[other][1])
            store.set(f'{rank}', 'done')
        except RuntimeError:  # the store has gone, with the launcher or the first rank; the collectives notice
            return

    def _beats(self) -> Iterator[int]:
        count, self._last = 0, time.monotonic()
        while not self._end.is_set():
            yield count
            count += 1
            self._end.wait(self.interval)

    def _slept(self, now: float) -> bool:
        """Whether this process was stopped itself since the last beat, perhaps with all others."""
        gap, self._last = now - self._last, now
        return gap > 3 * self.interval

    def _give_up(self, rank: str, who: str, silent: float) -> None:
        text = (
            f'\n{rank_label()}error: rank {rank} ({who}) has not answered for {silent:.0f} s; the job ends '
            f'(env_cfg.dist_cfg.timeout={self.limit / 0.8:g}). Start again with --resume\n'
        )
        os.write(2, text.encode())
        host, _, process = who.partition(', process ')
        if host == socket.gethostname():  # a stopped process does not hear torchrun's SIGTERM; later, to fail second
            with suppress(OSError):
                subprocess.Popen(['sh', '-c', f'sleep 2; kill -9 {int(process)}'], start_new_session=True)
        os._exit(1)
