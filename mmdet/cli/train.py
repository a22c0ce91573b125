"""Train a detector.

mmdet train CONFIG [--gpus 4]
mmdet train [CONFIG] --data ROOT     on your own data set in COCO's format: writes a config for it, and trains that
"""

import argparse
import os
import sys

from mmdet.options import add_config, add_launcher, add_trust_checkpoint, add_work_dir, make_parser

# What takes seconds to import is imported behind the parser: --help, and an option that there is not, are at once.


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
        choices=['auto', 'fp16', 'bf16'],
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
    if '--amp' in words[:-1]:
        from mmdet.config import config_names

        i = words.index('--amp')
        if '/' in words[i + 1] or words[i + 1].endswith('.py') or words[i + 1] in config_names():
            words[i] = '--amp=auto'  # what follows is the config, not --amp's word
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


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(words)
    if args.data is not None:
        from .own_config import make_config

        words = words_for(*make_config(args), args)
        if args.only_config:
            return 0
        args = parse_args(words)
    from mmdet.run.launch import relaunch

    code = relaunch(words, args.gpus, args.max_restarts) if args.launcher == 'none' else None
    if code is not None:
        return code
    from .training import run

    run(words, args)
    return 0
