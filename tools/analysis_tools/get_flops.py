"""How much a detector computes for an image, and how many parameters it has, by module.

    python tools/analysis_tools/get_flops.py CONFIG --shape 800 1280
    python tools/analysis_tools/get_flops.py CONFIG --num-images 100

FLOPs are multiply-adds, as in mmdetection and most papers; twice as many if each counts as two. Counted are
convolutions and linear layers, with as many proposals and masks as the config's test_cfg allows, whatever the weights.
"""

import argparse
import sys
from statistics import fmean

from mmengine.config import DictAction
from mmengine.registry import init_default_scope
from terminaltables import AsciiTable

from mmdet.analysis.flops import count, short
from mmdet.config import check_config, check_model_config, load_config
from mmdet.registry import DATASETS, MODELS
from mmdet.run.ending import run_main


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    size = parser.add_mutually_exclusive_group()
    size.add_argument('--shape', type=int, nargs='+', help='height and width of the image in pixels, or one side')
    size.add_argument(
        '--num-images',
        type=int,
        default=100,
        help="mean over so many images of the config's test set, as its pipeline resizes them (default: 100)",
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='settings that override the config'
    )
    args = parser.parse_args(argv)
    if args.shape is not None and (len(args.shape) > 2 or min(args.shape) < 1):
        parser.error(f'--shape {" ".join(map(str, args.shape))}: expected a height and a width, 1 or more')
    if args.num_images < 1:
        parser.error(f'--num-images {args.num_images}: must be 1 or more')
    return args


def image_shapes(cfg, number):
    """Heights and widths of the first images of the test set after its pipeline."""
    pipeline = [
        step
        for step in cfg.test_dataloader.dataset.pipeline
        if step['type'] not in ('LoadAnnotations', 'PackDetInputs')
    ]
    dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, pipeline=pipeline))
    return [tuple(dataset[i]['img'].shape[:2]) for i in range(min(number, len(dataset)))]


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    check_model_config(cfg)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    if args.shape is None:
        try:
            check_config(cfg, ('test',))
        except FileNotFoundError as error:
            raise FileNotFoundError(f'{error}, or give --shape HEIGHT WIDTH') from None
        shapes = image_shapes(cfg, args.num_images)
    else:
        shapes = [(args.shape[0], args.shape[-1])]
    model = MODELS.build(dict(cfg.model, data_preprocessor=None))
    divisor = (cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor', 1)
    counts = {shape: count(model, *shape, divisor) for shape in set(shapes)}
    found = [counts[shape] for shape in shapes]
    rows = [['module', 'parameters', 'FLOPs (multiply-adds)', '%']]
    total = fmean(one.rows[0].macs for one in found)
    for i, row in enumerate(found[0].rows):
        macs = fmean(one.rows[i].macs for one in found)
        name = '  ' * row.name.count('.') + row.name.rpartition('.')[2] if row.name else type(model).__name__
        rows.append([name, short(row.parameters), short(macs, 'G'), f'{100 * macs / total:.1f}'])
    print(AsciiTable(rows).table)
    sizes = [one.shape for one in found]
    if args.shape is None:
        each = [one.rows[0].macs for one in found]
        heights, widths = zip(*sizes)
        print(
            f'Mean of {len(found)} images: FLOPs from {short(min(each))} to {short(max(each))}; padded heights '
            f'{min(heights)} to {max(heights)}, widths {min(widths)} to {max(widths)}'
        )
    else:
        print(f'Input shape: {sizes[0][0]} x {sizes[0][1]} (height x width, padded to a multiple of {divisor})')
    most = max(found, key=lambda one: (one.proposals, one.masks))
    print(f'Proposals: {most.proposals}, masks: {most.masks}')
    print(f'FLOPs: {short(total)} multiply-adds ({short(2 * total)} with multiplications and additions counted apart)')
    print(f'Parameters: {short(found[0].rows[0].parameters)}')


if __name__ == '__main__':
    sys.exit(run_main(main))
