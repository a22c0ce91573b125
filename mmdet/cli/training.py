"""A training as the command line wants it."""

import argparse
import errno
import os
import shlex
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmdet.config import check_config, load_config
from mmdet.engine import DetRunner, amp_dtype
from mmdet.io.checkpoint import check_checkpoint_file, trust_checkpoints
from mmdet.io.published import place_of
from mmdet.io.resuming import find_checkpoint
from mmdet.run.interrupt import Interrupted
from mmdet.run.launch import command_words, restarted, without_options
from mmdet.run.prepare import prepare
from mmdet.words import shorten

#: what a disk says that is full, over quota, read-only or failing
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
#: what --amp may be besides auto
AMP = dict(fp16='float16', bf16='bfloat16')


def build_config(args: argparse.Namespace) -> Config:
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if args.amp in AMP:
        cfg.optim_wrapper.dtype = AMP[args.amp]
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':
        amp_dtype(cfg.optim_wrapper.get('dtype'))
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise KeyError(f'--auto-scale-lr: config {args.config} has no auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    if args.resume == 'auto':
        cfg.resume, cfg.load_from = True, None
    elif args.resume is not None:
        cfg.resume, cfg.load_from = True, args.resume
    elif args.weights is not None:
        cfg.resume, cfg.load_from = False, args.weights
    return cfg


def check_start(load_from: Any, resume: bool) -> None:
    """Check where a training starts, and download published weights before anything is built.

    Raises:
        FileNotFoundError, TypeError, ValueError: no text, no such file or name, no checkpoint; to go on from weights.
    """
    if not isinstance(load_from, str):
        raise TypeError(f'load_from must be the path of a checkpoint or a name, got {shorten(load_from)}')
    if resume and not os.path.isfile(load_from) and place_of(load_from):
        raise ValueError(
            f'--resume {load_from}: these are weights, without the state of a training to go on from; --weights '
            f'{load_from} (in the config resume=False) starts from them'
        )
    check_checkpoint_file(load_from)


def resume_command(words: list[str], args: argparse.Namespace) -> str:
    """What to type to go on with a run that was started with ``words`` behind the command's name."""
    kept = [word for word in words if word != '--resume']
    kept = without_options(kept, '--launcher', '--local_rank', '--local-rank', '--weights')
    kept = [word for word in kept if word.partition('=')[0] != '--resume' and word != args.resume]
    start = command_words('train.py', 'train')
    number = os.environ.get('LOCAL_WORLD_SIZE', '1')
    if args.launcher != 'pytorch':
        kept += ['--launcher', args.launcher] if args.launcher != 'none' else []
    elif start[0] == 'mmdet':
        kept += ['--gpus', number]
    else:  # the shell script wants config and number first
        start = [str(Path(start[1]).with_name('dist_train.sh'))]
        i = kept.index(args.config)
        kept = [args.config, number, *kept[:i], *kept[i + 1 :]]
    command = shlex.join([*start, *kept, '--resume'])
    if int(os.environ.get('GROUP_WORLD_SIZE', '1')) > 1:
        command = (
            f'NNODES={os.environ["GROUP_WORLD_SIZE"]} NODE_RANK=... MASTER_ADDR={os.environ["MASTER_ADDR"]} '
            f'PORT={os.environ["MASTER_PORT"]} {command}'
        )
    return command


def run(words: list[str], args: argparse.Namespace) -> None:
    """Train as ``args`` say, of which ``words`` are the command line."""
    cfg = build_config(args)
    check_config(cfg, ('train', 'val') if cfg.get('val_cfg') else ('train',))
    since = restarted()
    if since is not None:
        newest = find_checkpoint(cfg.work_dir, 0 if args.resume == 'auto' else since)
        if newest is not None:
            cfg.resume, cfg.load_from = True, newest
        print_log(f'started again; going on from {cfg.get("load_from") or "the beginning"}', 'current')
    if cfg.get('resume') and not cfg.get('load_from'):
        cfg.load_from = find_checkpoint(cfg.work_dir)
        cfg.resume = cfg.load_from is not None
        if not cfg.resume:
            cfg.load_from = load_config(args.config, args.cfg_options).get('load_from')  # its weights to start from
            print_log(f'--resume: {cfg.work_dir} holds no checkpoint yet; training starts at the beginning', 'current')
    if cfg.get('load_from') is not None:
        check_start(cfg.load_from, cfg.get('resume', False))
    prepare(cfg, args.launcher)
    with trust_checkpoints(args.trust_checkpoint):
        try:
            DetRunner.from_cfg(cfg).train()
        except Interrupted as stop:
            stop.resume_command = resume_command(words, args)
            raise
        except OSError as error:
            if error.errno not in DISK:
                raise
            command = resume_command(words, args)
            raise OSError(f'{error.strerror}. To go on once there is room:\n{command}') from error
