"""What the running statistics of BN or CBN do to a model's AP.

    python tools/analysis_tools/norm_statistics.py CONFIG CHECKPOINT

Evaluates the same weights with different statistics: 'running', those in the checkpoint; 'batch', each test batch's
own, as BN in training; 'precise', recomputed from --batches training batches under the final weights. A model that is
much better with 'batch' was trained on statistics that its running averages do not stand for; one that is much better
with 'precise' has averages that are too old or too noisy. Batches pass as in BN, which says little of a model that CBN
trained.

With --layers nothing is evaluated: the share of the variance that lies between images is printed for each norm, GN too,
before and after it, over the first --batches test batches.
"""

import argparse
import sys
from contextlib import nullcontext
from itertools import islice

from mmengine.config import DictAction

from mmdet.analysis.norm_statistics import batch_norms, between_shares, own_statistics, recompute_statistics
from mmdet.config import check_config, load_config
from mmdet.engine import DetRunner
from mmdet.io.checkpoint import check_checkpoint_file, trust_checkpoints
from mmdet.run.ending import run_main
from mmdet.run.prepare import prepare
from mmdet.run.progress import track

KINDS = ('running', 'batch', 'precise')


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--statistics', nargs='+', choices=KINDS, default=list(KINDS), help='which (default: all)')
    parser.add_argument('--layers', action='store_true', help="what each layer leaves of images' differences")
    parser.add_argument(
        '--batches',
        type=int,
        default=200,
        metavar='N',
        help="training batches, of the config's size, for 'precise'; test batches for --layers (default: 200)",
    )
    parser.add_argument('--work-dir', help='where the log goes (default: work_dirs/NAME)')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='read checkpoints that may run code; only for files whose origin you know',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='settings that override the config'
    )
    args = parser.parse_args(argv)
    if args.batches < 1:
        parser.error(f'--batches {args.batches}: must be 1 or more')
    return args


def show_layers(runner, batches):
    loader = runner.test_dataloader
    number = min(batches, len(loader))
    shares = between_shares(runner.model, track(islice(loader, number), 'images', number))
    width = max(map(len, shares), default=0)
    print(f'{"between images, %":{width}}  before  after')
    for name, (before, after) in shares.items():
        print(f'{name:{width}}  {100 * before:6.0f} {100 * after:6.0f}')


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    check_config(cfg, ('test',) + (('train',) if 'precise' in args.statistics and not args.layers else ()))
    check_checkpoint_file(args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False
    prepare(cfg, 'none')
    runner = DetRunner.from_cfg(cfg)
    if not args.layers:
        batch_norms(runner.model)
    results = {}
    with trust_checkpoints(args.trust_checkpoint):
        runner.load_or_resume()
        if args.layers:
            show_layers(runner, args.batches)
            return
        for kind in sorted(set(args.statistics), key=KINDS.index):  # the last one changes the model
            if kind == 'precise':
                loader = runner.build_dataloader(cfg.train_dataloader, seed=runner.seed)
                number = min(args.batches, len(loader))
                done = recompute_statistics(runner.model, track(islice(loader, number), 'statistics', number))
                kind = f'precise, of {done} training batches of {loader.batch_sampler.batch_size}'
            with own_statistics(runner.model) if kind == 'batch' else nullcontext():
                results[kind] = runner.test()
    for kind, metrics in results.items():
        values = '  '.join(
            f'{name.rpartition("/")[2]} {value:.3f}' for name, value in metrics.items() if name.endswith('_mAP')
        )
        print(f'{kind}: {values}')


if __name__ == '__main__':
    sys.exit(run_main(main))
