"""Turn torchvision's Faster R-CNN and Mask R-CNN weights into a checkpoint for configs/torchvision/.

    mmdet convert torchvision maskrcnn_resnet50_fpn OUT

Channels are not swapped: torchvision takes RGB, and so do these configs after bgr_to_rgb, with the same mean and
standard deviation. Boxes, scores and masks of regions are the same; in the image masks differ along their border, for
torchvision rounds a mask's box to whole pixels.
"""

import argparse
import hashlib
import io
import os
import re
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.registry import init_default_scope
from torchvision.models import get_model_weights

import mmdet.models  # noqa: F401
from mmdet.config import load_config
from mmdet.io.atomic import write_atomic
from mmdet.io.checkpoint import check_checkpoint_file, get_weights, load_checkpoint_file
from mmdet.options import add_trust_checkpoint, make_parser
from mmdet.registry import MODELS

CONFIGS = dict(
    fasterrcnn_resnet50_fpn='configs/torchvision/faster-rcnn_r50_fpn_coco.py',
    maskrcnn_resnet50_fpn='configs/torchvision/mask-rcnn_r50_fpn_coco.py',
)
PUBLISHED = {name: get_model_weights(name).COCO_V1.url for name in CONFIGS}
#: torchvision's names of the classes by index, 'N/A' for the category ids that COCO does not use
CATEGORIES = get_model_weights('fasterrcnn_resnet50_fpn').COCO_V1.meta['categories']
OUR_EPS = 1e-5

#: torchvision's names, of this and of older versions, and ours
RENAMES = [
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r'backbone\.body\.', 'backbone.'),
        (r'backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?', r'neck.lateral_convs.\1.conv.'),
        (r'backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?', r'neck.fpn_convs.\1.conv.'),
        (r'rpn\.head\.conv\.(?:0\.0\.)?', 'rpn_head.rpn_conv.'),
        (r'rpn\.head\.cls_logits\.', 'rpn_head.rpn_cls.'),
        (r'rpn\.head\.bbox_pred\.', 'rpn_head.rpn_reg.'),
        (r'roi_heads\.box_head\.fc6\.', 'roi_head.bbox_head.shared_fcs.0.'),
        (r'roi_heads\.box_head\.fc7\.', 'roi_head.bbox_head.shared_fcs.1.'),
        (r'roi_heads\.box_predictor\.cls_score\.', 'roi_head.bbox_head.fc_cls.'),
        (r'roi_heads\.box_predictor\.bbox_pred\.', 'roi_head.bbox_head.fc_reg.'),
        (r'roi_heads\.mask_head\.(\d)\.0\.', r'roi_head.mask_head.convs.\1.conv.'),
        (r'roi_heads\.mask_head\.mask_fcn(\d)\.', lambda found: f'roi_head.mask_head.convs.{int(found[1]) - 1}.conv.'),
        (r'roi_heads\.mask_predictor\.conv5_mask\.', 'roi_head.mask_head.upsample.'),
        (r'roi_heads\.mask_predictor\.mask_fcn_logits\.', 'roi_head.mask_head.conv_logits.'),
    )
]
#: how the keys of torchvision's other detectors can be told
OTHERS = (
    ('roi_heads.keypoint_', 'a Keypoint R-CNN'),
    ('roi_heads.box_head.0.', 'a model of version 2 (..._fpn_v2)'),
    ('backbone.body.0.', 'a model on MobileNet'),
    ('backbone.features.', 'an SSD'),
    ('head.classification_head.', 'a one-stage detector (RetinaNet, FCOS, SSD)'),
)
WANTED = f'convertible are {" and ".join(CONFIGS)}, both on ResNet-50 with FPN'


class Source(NamedTuple):
    """Holds what was read of torchvision's file."""

    path: str
    state: dict  # torchvision's state_dict
    published: bool  # one of torchvision's own files


class Converted(NamedTuple):
    """Holds what is written, and what to say of it."""

    name: str  # torchvision's, of the model
    state: dict
    num_classes: int
    classes: tuple | None  # names, where they are known
    dropped: list  # texts


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument(
        'src',
        help='file with a state_dict, or the name of one of the two models: its published file in the torch hub cache',
    )
    parser.add_argument('dst', help='checkpoint to write')
    parser.add_argument(
        '--keep-unused',
        action='store_true',
        help='of 91 classes keep the 10 that COCO does not use: 90 instead of 80 classes, and exactly '
        "torchvision's scores",
    )
    parser.add_argument(
        '--norm-eps',
        type=float,
        choices=(0.0, OUR_EPS),
        help="eps of torchvision's batch norms "
        f'(default: 0 for its published files, which it runs so, else {OUR_EPS}); also 0 for weights '
        'fine-tuned from these',
    )
    add_trust_checkpoint(parser)
    return parser.parse_args(argv)


# -- reading ------------------------------------------------------------------------------------------------------


def find(src):
    """Path of SRC, which may be the name of a model.

    Raises:
        FileNotFoundError, ValueError: not there; a model that cannot be converted.
    """
    if os.path.exists(src) or '.' in src or os.sep in src:
        return src
    if src not in PUBLISHED:
        raise ValueError(f'{src}: neither a file nor the name of a model that can be converted; {WANTED}')
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    path = folder / Path(PUBLISHED[src]).name
    if not path.is_file():
        raise FileNotFoundError(f'{src}: {path.name} is not in {folder}; put it there from {PUBLISHED[src]}')
    return str(path)


def read(path, trust=False):
    """The state_dict of a file, also of one of torchvision's training script.

    Raises:
        FileNotFoundError, ValueError: no such file, no weights, other objects; a published file that is damaged.
    """
    check_checkpoint_file(path)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    starts = {Path(url).stem.rsplit('-', 1)[1]: Path(url).name for url in PUBLISHED.values()}
    for start, name in starts.items():
        if Path(path).name == name and not digest.startswith(start):
            raise ValueError(
                f'checkpoint {path}: named as published by torchvision, but its sha256 starts with '
                f'{digest[:8]}: cut off or changed'
            )
    # The arguments in the checkpoints of torchvision's training script
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = load_checkpoint_file(path, trust=trust)
    inner = checkpoint.get('model')
    state = get_weights(inner if isinstance(inner, dict) else checkpoint, path)
    return Source(path, state, digest[:8] in starts)


# -- converting ---------------------------------------------------------------------------------------------------


def shapes(name, num_classes):
    """Shapes by key of the config's model, without building its tensors."""
    cfg = load_config(CONFIGS[name]).model
    for head in ('bbox_head', 'mask_head'):
        if head in cfg.roi_head:
            cfg.roi_head[head].num_classes = num_classes
    init_default_scope('mmdet')
    with torch.device('meta'):
        return {key: tuple(value.shape) for key, value in MODELS.build(cfg).state_dict().items()}


def rename(key):
    for pattern, ours in RENAMES:
        if pattern.match(key):
            return pattern.sub(ours, key, count=1)
    return key


def class_names(where, number, keep_unused):
    """Torchvision's indices of the classes that are kept, and their names (None: unknown)."""
    if number != len(CATEGORIES):
        if keep_unused:
            raise ValueError(
                f"{where}: --keep-unused is for {len(CATEGORIES)} classes (COCO's, and background); this "
                f'file has {number}'
            )
        return list(range(1, number)), None
    names = {i: name if name != 'N/A' else f'N/A {i}' for i, name in enumerate(CATEGORIES)}
    kept = [i for i in range(1, number) if keep_unused or CATEGORIES[i] != 'N/A']
    return kept, tuple(names[i] for i in kept)


def fold_eps(where, state, eps):
    """Change the norms' weights so that they do with :data:`OUR_EPS` what they did with ``eps``."""
    for key, variance in state.items():
        if not key.endswith('.running_var') or eps == OUR_EPS:
            continue
        if not (variance + eps > 0).all():
            raise ValueError(
                f'{where}: {key} has a variance of 0 with --norm-eps {eps:g}; these weights ran with {OUR_EPS:g}'
            )
        weight = key.replace('.running_var', '.weight')
        ratio = ((variance.double() + OUR_EPS) / (variance.double() + eps)).sqrt()
        state[weight] = (state[weight].double() * ratio).to(state[weight].dtype)


def convert(source, keep_unused, eps):
    """torchvision's state_dict as a :class:`Converted`.

    Raises:
        ValueError: another model, keys that are missing or unknown, shapes that do not fit.
    """
    where = f'checkpoint {source.path}'
    for prefix, what in OTHERS:
        if any(key.startswith(prefix) for key in source.state):
            raise ValueError(f'{where}: is {what}; {WANTED}')
    logits = source.state.get('roi_heads.box_predictor.cls_score.bias')
    if logits is None:
        raise ValueError(
            f"{where}: no detector of torchvision's (no roi_heads.box_predictor.cls_score.bias, but "
            f'{", ".join(list(source.state)[:3])}, ...); {WANTED}'
        )
    if logits.dim() != 1 or not 2 <= len(logits) <= 100000:
        raise ValueError(
            f'{where}: roi_heads.box_predictor.cls_score.bias has the shape {tuple(logits.shape)}, '
            f'expected (number of classes, ); {WANTED}'
        )
    number = len(logits)
    with_mask = any(key.startswith('roi_heads.mask_') for key in source.state)
    name = 'maskrcnn_resnet50_fpn' if with_mask else 'fasterrcnn_resnet50_fpn'
    kept, classes = class_names(where, number, keep_unused)

    expected = shapes(name, number - 1)
    names = {rename(key): key for key in source.state}
    unknown = [key for ours, key in names.items() if ours not in expected]
    missing = [key for key in expected if key not in names and not key.endswith('num_batches_tracked')]
    if unknown or missing:
        raise ValueError(
            f'{where}: not {name}:'
            + ''.join(
                f' {len(keys)} {what} keys, such as {keys[0]};'
                for what, keys in (('unknown', unknown), ('missing (in our names)', missing))
                if keys
            )
            + f' {WANTED}'
        )
    # Classes are rows: torchvision has background first, ours last (fc_cls) or not at all.
    rows = {
        'roi_head.bbox_head.fc_cls': (1, kept + [0]),
        'roi_head.bbox_head.fc_reg': (4, kept),
        'roi_head.mask_head.conv_logits': (1, kept),
    }
    state = {}
    for key, shape in expected.items():
        if key not in names:
            state[key] = torch.tensor(0)  # num_batches_tracked, which frozen norms do not have
            continue
        value = source.state[names[key]]
        each, order = rows.get(key.rsplit('.', 1)[0], (1, None))
        if order is not None:
            shape = (each * number, *shape[1:])
        if tuple(value.shape) != shape:
            raise ValueError(
                f'{where}: {names[key]} has the shape {tuple(value.shape)}, expected {shape} of {name} '
                f'with {number} classes, background among them; {WANTED}'
            )
        if order is not None:
            value = value.unflatten(0, (-1, each))[order].flatten(0, 1)
        state[key] = value.clone()
    fold_eps(where, state, eps)
    dropped = ["background's box" + (' and mask' if with_mask else '')]
    unused = [i for i in range(1, number) if i not in kept]
    if unused:
        dropped.append(
            f"{len(unused)} classes that COCO does not use, torchvision's {', '.join(map(str, unused))} "
            '(--keep-unused keeps them)'
        )
    return Converted(name, state, len(kept), classes, dropped)


def main(argv=None):
    args = parse_args(argv)
    source = read(find(args.src), args.trust_checkpoint)
    eps = args.norm_eps if args.norm_eps is not None else 0.0 if source.published else OUR_EPS
    result = convert(source, args.keep_unused, eps)
    buffer = io.BytesIO()
    meta = {} if result.classes is None else dict(dataset_meta=dict(classes=result.classes))
    torch.save(dict(meta=meta, state_dict=result.state), buffer)
    write_atomic(buffer.getvalue(), args.dst)
    heads = ['bbox_head'] + ['mask_head'] * ('mask' in result.name)
    options = ' '.join(f'model.roi_head.{head}.num_classes={result.num_classes}' for head in heads)
    print(f'converted: {source.path}, {result.name}, to {args.dst}')
    print(
        f'classes: {result.num_classes}'
        + ('' if result.classes else ", without names: those of the config's data set will be taken")
    )
    print(f'left out: {"; ".join(result.dropped)}')
    print(
        f'batch norms: eps {eps:g}'
        + (
            f' of torchvision, folded into the weights for our {OUR_EPS:g}'
            if eps != OUR_EPS
            else ' (--norm-eps 0 if fine-tuned from published weights)'
        )
    )
    print(f'config: {CONFIGS[result.name]}' + (f' --cfg-options {options}' if result.num_classes != 80 else ''))
