"""Mean, standard deviation and likeness of a data set's images: will BN do with one image a batch?

    python tools/analysis_tools/image_statistics.py CONFIG

Looks at the images after the pipeline, before the model's data preprocessor, and prints mean and std as
data_preprocessor takes them, and which share of the variance lies between images. Where it is large, as in
microscopy of bright and dark fields, one image does not stand for the others, and BN with one image a batch fails
first; where it is small, BN holds longer (docs/results.md).
"""

import argparse
import sys
from itertools import islice

from mmengine.config import DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed

from mmdet.analysis.image_statistics import image_statistics
from mmdet.config import check_config, load_config
from mmdet.registry import DATASETS
from mmdet.run.ending import run_main
from mmdet.run.progress import track


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--phase',
        choices=['train', 'val', 'test'],
        default='train',
        help='whose data set and pipeline (default: train)',
    )
    parser.add_argument('--show-number', type=int, metavar='N', help='only the first N images')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='settings that override the config'
    )
    args = parser.parse_args(argv)
    if args.show_number is not None and args.show_number < 1:
        parser.error(f'--show-number must be 1 or more, got {args.show_number}')
    return args


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg, (args.phase,))
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    set_random_seed((cfg.get('randomness') or {}).get('seed') or 0)
    dataset = DATASETS.build(cfg[f'{args.phase}_dataloader'].dataset)
    preprocessor = cfg.model.get('data_preprocessor') or {}
    flip = bool(preprocessor.get('bgr_to_rgb') or preprocessor.get('rgb_to_bgr'))
    total = min(len(dataset), args.show_number or len(dataset))
    images = (dataset[i]['inputs'] for i in range(len(dataset)))
    images = (image.flip(0) if flip and len(image) == 3 else image for image in images)
    statistics = image_statistics(track(islice(images, total), 'images', total))
    print(f'{statistics.images} images of the {args.phase} pipeline')
    for name in ('mean', 'std'):
        print(f'{name}=[{", ".join(f"{value:.2f}" for value in getattr(statistics, name))}]')
    shares = ', '.join(f'{100 * share:.0f} %' for share in statistics.between)
    print(f'of the variance between images: {shares}')


if __name__ == '__main__':
    sys.exit(run_main(main))
