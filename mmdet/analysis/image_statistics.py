"""Mean, standard deviation and likeness of a data set's images: will BN do with one image a batch?

    mmdet data statistics CONFIG

Looks at the images after the pipeline, before the model's data preprocessor, and prints mean and std as
data_preprocessor takes them, and which share of the variance lies between images. Where it is large, as in
microscopy of bright and dark fields, one image does not stand for the others, and BN with one image a batch fails
first; where it is small, BN holds longer (docs/results.md).
"""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import torch
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed

from mmdet.config import check_config, load_config
from mmdet.options import add_config, add_phase, make_parser, whole
from mmdet.registry import DATASETS
from mmdet.run.progress import track


class ImageStatistics(NamedTuple):
    """Of each channel, shape (C,) float64, in the images' unit; every image weighs the same."""

    mean: torch.Tensor
    std: torch.Tensor
    #: share of the variance that the images' own means make up, 0 to 1; 0 where a channel is constant
    between: torch.Tensor
    #: number of images
    images: int


def image_statistics(images: Iterable[torch.Tensor]) -> ImageStatistics:
    """Statistics of images of shape (C, H, W), of any sizes.

    By the law of total variance the variance of a channel is the mean of the images' variances plus the variance of
    their means. The second part's share says how little one image stands for all: what a norm that takes its
    statistics from one image removes in training, and running averages do not in evaluation.

    Raises:
        ValueError: no images, or images that differ in their number of channels.
    """
    means, variances = [], []
    for image in images:
        values = image.flatten(1).double()
        if means and len(values) != len(means[0]):
            raise ValueError(f'image {len(means)} has {len(values)} channels, those before it {len(means[0])}')
        means.append(values.mean(1))
        variances.append(values.var(1, correction=0))
    if not means:
        raise ValueError('there are no images to take statistics of')
    total, share = between_share(torch.stack(means), torch.stack(variances))
    return ImageStatistics(torch.stack(means).mean(0), total.sqrt(), share, len(means))


def between_share(means: torch.Tensor, variances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Total variance, and the share of it between images, (C,), by the images' means and variances, (N, C)."""
    between = means.var(0, correction=0)
    total = variances.mean(0) + between
    return total, torch.where(total > 0, between / total, torch.zeros_like(total))


# -- the command --------------------------------------------------------------------------------------------------


def parse_args(argv=None):
    parser = make_parser(__doc__)
    add_config(parser)
    add_phase(parser)
    parser.add_argument('--show-number', type=whole(1), metavar='N', help='only the first N images')
    args = parser.parse_args(argv)
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
