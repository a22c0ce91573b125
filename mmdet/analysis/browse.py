"""Draw what a model is fed: images and objects, after augmentation.

mmdet data browse CONFIG --output-dir DIR --not-show
"""

import os
from itertools import count, islice
from pathlib import Path

import numpy as np
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed

from mmdet.config import check_config, load_config
from mmdet.options import add_config, add_phase, make_parser, number, whole
from mmdet.registry import DATASETS, MODELS
from mmdet.run.progress import track
from mmdet.visualization import DetLocalVisualizer, check_display, readable_factor

#: pixels between the images of a batch
GAP = 8


def parse_args(argv=None):
    parser = make_parser(__doc__)
    add_config(parser)
    parser.add_argument('--output-dir', help='where to write pictures')
    parser.add_argument('--not-show', action='store_true', help='open no windows')
    parser.add_argument(
        '--show-interval',
        type=number(0),
        default=2,
        metavar='SECONDS',
        help='how long each picture is shown, 0: until the space key (default: 2)',
    )
    add_phase(parser)
    parser.add_argument('--show-number', type=whole(1), metavar='N', help='only the first N pictures')
    parser.add_argument(
        '--batch',
        action='store_true',
        help='whole batches, shuffled and padded as the model gets them (colours as after the '
        "data preprocessor's normalization and back)",
    )
    args = parser.parse_args(argv)
    if args.not_show and not args.output_dir:
        parser.error('--not-show without --output-dir leaves nothing to do')
    return args


def with_annotations(dataset, with_mask):
    """A config of a data set whose pipeline loads annotations: those of evaluation need none."""
    if 'dataset' in dataset:
        return dict(dataset, dataset=with_annotations(dataset['dataset'], with_mask))
    if 'datasets' in dataset:
        return dict(dataset, datasets=[with_annotations(each, with_mask) for each in dataset['datasets']])
    pipeline = dataset.get('pipeline') or []
    kinds = [step['type'] for step in pipeline]
    if 'LoadAnnotations' in kinds or 'LoadImageFromFile' not in kinds:
        return dataset
    at = kinds.index('LoadImageFromFile') + 1
    step = dict(type='LoadAnnotations', with_bbox=True, with_mask=with_mask)
    return dict(dataset, pipeline=[*pipeline[:at], step, *pipeline[at:]])


def single_images(dataset):
    """Name, image (H, W, 3) uint8 RGB and sample of what the pipeline makes of each image."""
    taken = set()
    for i in range(len(dataset)):
        item = dataset[i]
        path = Path(item['data_samples'].get('img_path') or f'{i:06}.png')
        # An image can come several times, and folders can have images of one name
        name = path.name if path.stem not in taken else f'{path.stem}_{i}{path.suffix}'
        taken.add(path.stem)
        yield name, to_image(item['inputs'].numpy()), item['data_samples']


def to_image(array):
    """From (3, H, W) in the order BGR to (H, W, 3) uint8 RGB."""
    return np.ascontiguousarray(np.clip(np.round(array[::-1].transpose(1, 2, 0)), 0, 255), dtype=np.uint8)


def batches(loader, preprocessor, training):
    """Batches as the model gets them: a list of images (H, W, 3) uint8 RGB and samples."""
    for batch in loader:
        data = preprocessor(batch, training)
        images = data['inputs']
        if preprocessor._enable_normalize:
            images = images * preprocessor.std + preprocessor.mean
        if preprocessor._channel_conversion:
            images = images.flip(1)
        yield [(to_image(image), sample) for image, sample in zip(images.cpu().numpy(), data['data_samples'])]


def draw_batch(visualizer, items):
    """One picture (H, W, 3) of the images of a batch, side by side."""
    factor = readable_factor(items[0][0])
    parts = []
    for image, sample in items:
        picture = visualizer.picture(image, sample, True, False, 0.0, factor)
        parts += [picture, np.full((picture.shape[0], GAP, 3), 255, dtype=np.uint8)]
    return np.concatenate(parts[:-1], axis=1)


def main(argv=None):
    args = parse_args(argv)
    if not args.not_show:
        check_display('give --not-show and --output-dir')
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg, (args.phase,))
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    set_random_seed((cfg.get('randomness') or {}).get('seed') or 0)
    loader = cfg[f'{args.phase}_dataloader'].to_dict()
    has_masks = 'mask_head' in (cfg.model.get('roi_head') or {})
    loader['dataset'] = with_annotations(loader['dataset'], has_masks)
    dataset = DATASETS.build(loader['dataset'])
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = dataset.metainfo
    if args.batch:
        loader.update(dataset=dataset, num_workers=0, persistent_workers=False)
        loader.pop('prefetch_factor', None)
        loader = Runner.build_dataloader(loader, seed=0)
        preprocessor = MODELS.build(cfg.model.data_preprocessor)
        total, items = len(loader), batches(loader, preprocessor, args.phase == 'train')
    else:
        total, items = len(dataset), single_images(dataset)
    total = min(total, args.show_number or total)
    for i, item in zip(count(), track(islice(items, total), 'browsing', total)):
        if args.batch:
            name, image, sample = f'batch_{i:05}.png', draw_batch(visualizer, item), None
        else:
            name, image, sample = item
        visualizer.add_datasample(
            name,
            image,
            sample,
            draw_pred=False,
            show=not args.not_show,
            wait_time=args.show_interval,
            out_file=os.path.join(args.output_dir, name) if args.output_dir else None,
        )
    if args.output_dir:
        print(f'{total} pictures in {args.output_dir}')
