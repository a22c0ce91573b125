"""COCO AP of a checkpoint.

mmdet test CONFIG CHECKPOINT [--gpus 4]
"""

import argparse
import os
import sys
from typing import Any

from mmdet.options import add_config, add_launcher, add_trust_checkpoint, add_work_dir, make_parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint file, or the name of a config with published weights')
    add_work_dir(parser)
    parser.add_argument('--out', help='write the detections to this .pkl file')
    parser.add_argument(
        '--show-dir',
        help='write pictures into this folder of WORK_DIR/TIMESTAMP: on the left what is annotated, on the right what '
        'was detected; an absolute path stays as it is',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation: detect in several versions of each image, by the config's tta_pipeline and "
        'tta_model, or else in the image and its mirror image',
    )
    add_trust_checkpoint(parser)
    add_launcher(parser)
    args = parser.parse_args(argv)
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out {args.out}: the file name must end with .pkl or .pickle')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def augment_test(cfg: Any) -> None:
    """Test with the config's ``tta_pipeline`` and ``tta_model``, or with a horizontal flip, in place.

    Raises:
        ValueError: a test pipeline that does not end with PackDetInputs.
    """
    from mmdet.config import check_model_config, inner_dataset, step_name
    from mmdet.config.check import check_parts

    dataset = inner_dataset(cfg.test_dataloader.dataset, 'pipeline')
    pipeline = list(cfg.get('tta_pipeline') or dataset.pipeline)
    if not cfg.get('tta_pipeline'):
        if step_name(pipeline[-1]) != 'PackDetInputs':
            raise ValueError(
                'test_dataloader.dataset.pipeline: must end with PackDetInputs for --tta, ends with '
                f'{step_name(pipeline[-1])}; or give a tta_pipeline'
            )
        pack = dict(pipeline[-1])
        if 'meta_keys' in pack:
            pack['meta_keys'] = (*pack['meta_keys'], 'flip', 'flip_direction')
        flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
        pipeline = [*pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [pack]])]
    dataset.pipeline = pipeline
    cfg.model = dict(dict(cfg.get('tta_model') or dict(type='DetTTAModel')), module=cfg.model)
    check_model_config(cfg)
    check_parts(cfg, ('test',))


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(words)
    # behind the parser, as they take a second or two: --help, and an option that there is not, are at once
    from mmdet.config import check_config, load_config
    from mmdet.engine import DetRunner
    from mmdet.evaluation import DumpDetResults
    from mmdet.io.checkpoint import check_checkpoint_file, trust_checkpoints
    from mmdet.run.launch import relaunch
    from mmdet.run.prepare import prepare

    code = relaunch(words, args.gpus, args.max_restarts) if args.launcher == 'none' else None
    if code is not None:
        return code
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    check_config(cfg, ('test',))
    check_checkpoint_file(args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.show_dir:
        cfg.setdefault('default_hooks', {})
        hook = cfg.default_hooks.get('visualization') or dict(type='DetVisualizationHook')
        cfg.default_hooks.visualization = dict(hook, draw=True, test_out_dir=args.show_dir)
    if args.tta:
        augment_test(cfg)
    prepare(cfg, args.launcher)
    runner = DetRunner.from_cfg(cfg)
    if args.out:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    with trust_checkpoints(args.trust_checkpoint):
        runner.test()
    return 0
