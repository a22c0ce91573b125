"""What is done before a run: mmengine's reading and writing replaced, the config completed, the group started."""

import ctypes
import os
import sys
from contextlib import suppress
from datetime import timedelta
from functools import wraps
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from yapf.yapflib import yapf_api  # type: ignore[import-untyped]

from mmdet.io.atomic import install_backend
from mmdet.io.checkpoint import install_loaders
from mmdet.run.ranks import check_timeout, slurm_environment

#: of the C library's mallopt
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
#: hooks that every run gets, also with a config written for another toolbox
RUN_HOOKS = ('CBNHook', 'CheckpointCheckHook', 'ProgressHook', 'ResourceHook')


def setup() -> None:
    """From here on this process reads checkpoints without running code in them, and writes files whole or not at all.

    mmengine's loaders of checkpoints and its local files are replaced, and a config's text is formatted once. Every
    command, :class:`~mmdet.engine.DetRunner`, :func:`~mmdet.apis.init_detector` and
    :func:`~mmdet.utils.register_all_modules` call it; importing mmdet does not.
    """
    install_loaders()
    install_backend()
    _format_once()


def keep_memory() -> None:
    """Let the C library keep what is freed of large blocks: a data loader's next image is as large.

    By default it gives the memory back, and the system clears each page that is asked for again: half of what a worker
    takes.
    """
    _mallopt({M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 128 << 20})


def share_memory() -> None:
    """Let the C library have one arena for all threads.

    By default each of a kernel's threads has its own, and what one of them has freed the others cannot use.
    """
    _mallopt({M_ARENA_MAX: 1})


def _mallopt(options: dict[int, int]) -> None:
    """Set options of the C library's malloc, unless environment variables (MALLOC_..., GLIBC_TUNABLES) say how."""
    if sys.platform != 'linux' or any(key.startswith(('MALLOC_', 'GLIBC_TUNABLES')) for key in os.environ):
        return
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL('libc.so.6').mallopt
        for option, value in options.items():
            mallopt(option, value)


def _format_once() -> None:
    """Remember the last text that was formatted: mmengine formats a run's config four times, for half a second each."""
    original = getattr(yapf_api.FormatCode, '__wrapped__', yapf_api.FormatCode)
    known: dict[str, Any] = {}

    @wraps(original)
    def remembering(*args, **kwargs) -> Any:
        key = repr((args, kwargs))
        if key not in known:
            known.clear()
            known[key] = original(*args, **kwargs)
        return known[key]

    yapf_api.FormatCode = remembering


def prepare(cfg: Config, launcher: str) -> None:
    """Complete a config in place and start the process group where mmengine cannot.

    The backend of ``env_cfg.dist_cfg`` becomes gloo where there is no GPU and nccl where 'auto' is asked for. Under
    Slurm torchrun's variables are set and then used.

    Raises:
        KeyError: launcher 'slurm' without srun. ValueError: a timeout that is no number of seconds.
    """
    share_memory()
    if launcher == 'slurm':
        slurm_environment()
        launcher = 'pytorch'
    cfg.launcher = launcher
    hooks = list((cfg.get('default_hooks') or {}).values()) + list(cfg.get('custom_hooks') or [])
    present = {hook.get('type') for hook in hooks if isinstance(hook, dict)}
    cfg.custom_hooks = list(cfg.get('custom_hooks') or []) + [
        dict(type=hook) for hook in RUN_HOOKS if hook not in present
    ]
    cfg.setdefault('default_scope', 'mmdet')
    follow_loop(cfg)
    env = cfg.setdefault('env_cfg', {})
    dist_cfg = env.setdefault('dist_cfg', {})
    dist_cfg['backend'] = pick_backend(dist_cfg.get('backend', 'auto'))
    timeout = check_timeout(dist_cfg, f'config {cfg.filename}')
    if launcher != 'none' and not torch.cuda.is_available():
        # mmengine names a CUDA device, both to start the group and to wrap the model.
        cfg.model_wrapper_cfg = dict(
            type='mmdet.CPUDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        if launcher == 'pytorch' and not is_distributed():
            # mmengine makes a timedelta of the timeout, too
            torch.distributed.init_process_group(**dict(dist_cfg, timeout=timedelta(seconds=timeout)))


def follow_loop(cfg: Config) -> None:
    """Let checkpoints and the log of a training that counts iterations count them, too, where the config says nothing.

    A config that was made for epochs and only got another loop would write its first checkpoint at the end.
    """
    loop = cfg.get('train_cfg') or {}
    if not str(loop.get('type', '')).endswith('IterBasedTrainLoop') and loop.get('by_epoch', True):
        return
    if cfg.get('log_processor'):
        cfg.log_processor.by_epoch = False
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
    if isinstance(checkpoint, dict) and 'by_epoch' not in checkpoint:
        interval = loop.get('val_interval', 1000)
        checkpoint.update(by_epoch=False, interval=interval)
        print_log(
            f'train_cfg counts iterations: a checkpoint every {interval}, as validation; '
            'default_hooks.checkpoint=dict(by_epoch=False, interval=...) sets another number',
            'current',
        )


def pick_backend(wanted: str) -> str:
    """'gloo' without CUDA; with it what is wanted, 'nccl' for 'auto'."""
    if not torch.cuda.is_available():
        if wanted == 'nccl':
            print_log('no CUDA here: backend gloo instead of nccl', 'current')
        return 'gloo'
    return 'nccl' if wanted == 'auto' else wanted
