"""Train a detector.

mmdet train CONFIG [--gpus 4]
"""

import argparse
import errno
import os
import shlex
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from mmdet.config import check_config, config_names, load_config
from mmdet.config.options import add_config, add_launcher, add_trust_checkpoint, add_work_dir, make_parser
from mmdet.engine import DetRunner, amp_dtype
from mmdet.io.checkpoint import check_checkpoint_file, trust_checkpoints
from mmdet.io.resuming import find_checkpoint
from mmdet.run.interrupt import Interrupted
from mmdet.run.launch import command_words, relaunch, restarted, without_options
from mmdet.run.prepare import prepare

#: what a disk says that is full, over quota, read-only or failing
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
AMP = dict(fp16='float16', bf16='bfloat16')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_config(parser)
    add_work_dir(parser, 'logs and checkpoints go')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from a checkpoint; without a path, from the latest one in the work dir',
    )
    add_trust_checkpoint(parser)
    parser.add_argument(
        '--amp',
        nargs='?',
        const='auto',
        choices=['auto', *AMP],
        help='mixed precision: fp16 (needs CUDA), bf16, or auto (also without a word): fp16 on a GPU, '
        'bf16 on the CPU, or the dtype of the config',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by batch size over the config's auto_scale_lr.base_batch_size",
    )
    add_launcher(parser)
    words = list(sys.argv[1:] if argv is None else argv)
    for i, (word, following) in enumerate(zip(words, words[1:])):
        if word == '--amp' and ('/' in following or following.endswith('.py') or following in config_names()):
            # the config, not --amp's word
            words[i] = '--amp=auto'
    args = parser.parse_args(words)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


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
    return cfg


def resume_command(words: list[str], args: argparse.Namespace) -> str:
    """What to type to go on with a run that was started with ``words`` behind the command's name."""
    kept = without_options([word for word in words if word != '--resume'], '--launcher', '--local_rank', '--local-rank')
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


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(words)
    code = relaunch(words, args.gpus, args.max_restarts) if args.launcher == 'none' else None
    if code is not None:
        return code
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
            print_log(f'--resume: {cfg.work_dir} holds no checkpoint yet; training starts at the beginning', 'current')
    if cfg.get('load_from'):
        check_checkpoint_file(cfg.load_from)
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
    return 0
