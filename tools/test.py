"""COCO AP of a checkpoint: python tools/test.py CONFIG CHECKPOINT."""

import argparse
import os
import sys

from mmengine.config import DictAction

from mmdet.config import check_config, load_config
from mmdet.engine import DetRunner
from mmdet.io.checkpoint import check_checkpoint_file, trust_checkpoints
from mmdet.run.ending import run_main
from mmdet.run.prepare import prepare


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description='Evaluate a detector')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where the log goes (default: work_dirs/NAME)')
    parser.add_argument('--out', help='write the detections to this .pkl file')
    parser.add_argument('--show-dir', help='write pictures of the detections into this folder')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='read checkpoints that may run code; only for files whose origin you know',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='settings that override the config'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out {args.out}: the file name must end with .pkl or .pickle')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    check_config(cfg, ('test',))
    check_checkpoint_file(args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.show_dir:
        cfg.setdefault('default_hooks', {})
        cfg.default_hooks.visualization = dict(type='DetVisualizationHook', draw=True, test_out_dir=args.show_dir)
    prepare(cfg, args.launcher)
    runner = DetRunner.from_cfg(cfg)
    if args.out:
        from mmdet.evaluation import DumpDetResults

        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    with trust_checkpoints(args.trust_checkpoint):
        runner.test()


if __name__ == '__main__':
    sys.exit(run_main(main))
