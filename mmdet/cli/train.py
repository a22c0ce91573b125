"""Train a detector.

mmdet train CONFIG [--gpus 4]
mmdet train [CONFIG] --data ROOT     on your own data set in COCO's format: writes a config for it, and trains that
"""

import argparse
import errno
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmdet.config import check_config, config_names, load_config
from mmdet.config.options import add_config, add_launcher, add_trust_checkpoint, add_work_dir, make_parser
from mmdet.engine import DetRunner, amp_dtype
from mmdet.io.checkpoint import check_checkpoint_file, trust_checkpoints
from mmdet.io.published import place_of
from mmdet.io.resuming import find_checkpoint
from mmdet.run.interrupt import Interrupted
from mmdet.run.launch import command_words, relaunch, restarted, without_options
from mmdet.run.prepare import prepare
from mmdet.words import shorten

from .own_config import make_config

#: what a disk says that is full, over quota, read-only or failing
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
AMP = dict(fp16='float16', bf16='bfloat16')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_config(parser, 'with --data one is chosen if there is none', '?')
    add_work_dir(parser, 'logs and checkpoints go')
    parser.add_argument(
        '--data',
        metavar='ROOT',
        help="folder of a data set in COCO's format, as CVAT, Label Studio and Roboflow export it: files and classes "
        'are found, a config that fits is written to the work dir, and trained',
    )
    parser.add_argument('--only-config', action='store_true', help='with --data: write the config, and do not train')
    parser.add_argument('--force', action='store_true', help='with --data: replace a config that is there already')
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from a checkpoint; without a path, from the latest one in the work dir',
    )
    start.add_argument(
        '--weights',
        metavar='NAME_OR_PATH',
        help='start a training from these weights: a checkpoint, or the name of a config with published weights, for '
        'instance mask-rcnn_r50_fpn_1x_coco; heads may differ',
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
    if args.data is None and args.config is None:
        parser.error('the following arguments are required: config, or --data ROOT')
    if args.data is None and (args.only_config or args.force):
        parser.error('--only-config and --force need --data ROOT')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def words_for(config: str, settings: dict, args: argparse.Namespace) -> list[str]:
    """The command line that trains ``config``, which holds what else came with ``--data``, as ``args`` say."""
    words, held = [config], ('config', 'cfg_options', 'work_dir', 'weights', 'data', 'only_config', 'force')
    for name, default in vars(parse_args([config])).items():
        value = getattr(args, name)
        if value != default and name not in held:
            flag = f'--{name.replace("_", "-")}'
            words.append(flag if value is True else f'{flag}={value}')
    return words + (['--cfg-options'] + [f'{key}={value}' for key, value in settings.items()] if settings else [])


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


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(words)
    if args.data is not None:
        words = words_for(*make_config(args), args)
        if args.only_config:
            return 0
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
    return 0
