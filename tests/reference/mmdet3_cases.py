"""Cases whose answers are recorded from mmdetection 3.x: what goes in, and the answers of whichever ``mmdet`` runs them.

Only names that both have are used, so that one code makes the recorded answers (``tests/data/record_answers.py``) and,
in the tests, ours.
"""
import copy
import hashlib
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

HEIGHT, WIDTH = 211, 293
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def digest(array) -> str:
    """A short hash of an array's bytes, with its type and shape in clear."""
    array = np.ascontiguousarray(array)
    return f'{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}'


# -- input ------------------------------------------------------------------------------------------------------------


def make_image(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Coloured rectangles and ellipses on a gradient with noise, (H, W, 3) uint8 BGR."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], -1).astype(np.uint8)
    for _ in range(6):
        (x1, y1), colour = rng.randint(0, (width - 20, height - 20)), rng.randint(0, 256, 3)
        w, h = rng.randint(15, 110, 2)
        image[y1:y1 + h, x1:x1 + w] = colour
    noise = rng.randint(-12, 13, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def polygon(rng, x, y, w, h, corners=7) -> list:
    angle = np.sort(rng.rand(corners)) * 2 * np.pi
    points = np.stack([x + w / 2 + np.cos(angle) * w / 2, y + h / 2 + np.sin(angle) * h / 2], 1)
    return points.round(2).reshape(-1).tolist()


def make_instances(seed: int = 0, number: int = 6, rle: bool = True, height: int = HEIGHT, width: int = WIDTH) -> list:
    """Objects with polygons (one of two parts), one as RLE, one crowd, one without a usable mask."""
    rng = np.random.RandomState(seed + 100)
    out = []
    for i in range(number):
        w, h = rng.uniform(12, 130, 2)
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        mask = [polygon(rng, x, y, w, h)]
        if i == 1:
            mask = [polygon(rng, x, y, w / 2, h), polygon(rng, x + w / 2, y, w / 2, h)]
        if i == 2 and rle:
            runs = [int(y) + int(x) * height, 40, height - 40, 40, height - 40, 40]
            mask = dict(size=[height, width], counts=runs + [height * width - sum(runs)])
        if i == 3:
            mask = [[1.0, 2.0, 3.0, 4.0]]
        out.append(dict(bbox=[round(float(v), 3) for v in (x, y, x + w, y + h)], bbox_label=int(rng.randint(80)),
                        mask=mask, ignore_flag=int(i == number - 1)))
    return out


def seeded_weights(model: torch.nn.Module) -> dict:
    """Weights that depend on names alone; detections with them are many and of all scores."""
    out = {}
    for name, old in model.state_dict().items():
        rng = np.random.RandomState(zlib.crc32(name.encode()))
        shape = tuple(old.shape)
        if name.endswith('num_batches_tracked'):
            out[name] = torch.zeros_like(old)
            continue
        if name.endswith('running_var'):
            value = rng.uniform(0.6, 1.6, shape)
        elif name.endswith('running_mean'):
            value = rng.normal(0, 0.1, shape)
        elif name.endswith('bias'):
            value = rng.normal(0, 0.1, shape)
        elif len(shape) == 1:
            value = rng.uniform(0.6, 1.2, shape) * (0.3 if '.bn3.' in name else 1)
        else:
            fan_in = int(np.prod(shape[1:]))
            gain = next((g for key, g in GAINS.items() if key in name), 1.0)
            value = rng.normal(0, gain * np.sqrt(2 / fan_in), shape)
        out[name] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return out


GAINS = {'rpn_cls': 1.0, 'rpn_reg': 0.15, 'fc_cls': 2.5, 'fc_reg': 0.5, 'lateral_convs': 0.7, 'fpn_convs': 0.7,
         'conv_logits': 2.0}

# -- pipelines --------------------------------------------------------------------------------------------------------

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
LOAD_POLYGONS = [dict(type='LoadImageFromFile'),
                 dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)]
FLIP, PACK = dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')
SCALES = [(333, 160), (333, 176), (333, 192), (333, 208)]
PIPELINES = dict(
    standard=[*LOAD, dict(type='Resize', scale=(333, 200), keep_ratio=True), FLIP, PACK],
    enlarged=[*LOAD, dict(type='Resize', scale=(700, 451), keep_ratio=True), FLIP, PACK],
    squeezed=[*LOAD, dict(type='Resize', scale=(257, 319), keep_ratio=False), FLIP, PACK],
    factor=[*LOAD, dict(type='Resize', scale_factor=1.37, keep_ratio=True), PACK],
    two_factors=[*LOAD, dict(type='Resize', scale_factor=(0.7, 1.3)), PACK],
    nearest=[*LOAD, dict(type='Resize', scale=(333, 200), keep_ratio=True, interpolation='nearest'), PACK],
    horizontal=[*LOAD, dict(type='RandomFlip', prob=1.0), PACK],
    vertical=[*LOAD, dict(type='RandomFlip', prob=1.0, direction='vertical'), PACK],
    diagonal=[*LOAD, dict(type='RandomFlip', prob=1.0, direction='diagonal'), PACK],
    directions=[*LOAD, dict(type='RandomFlip', prob=[0.3, 0.3, 0.3],
                            direction=['horizontal', 'vertical', 'diagonal']), PACK],
    pad_divisor=[*LOAD, dict(type='Resize', scale=(333, 200), keep_ratio=True), dict(type='Pad', size_divisor=32), PACK],
    pad_size=[*LOAD, dict(type='Pad', size=(320, 240), pad_val=dict(img=(114, 115, 116), masks=0)), PACK],
    pad_square=[*LOAD, dict(type='Pad', pad_to_square=True, pad_val=dict(img=(7, 8, 9))), PACK],
    choice=[*LOAD, dict(type='RandomChoiceResize', scales=SCALES, keep_ratio=True), FLIP, PACK],
    between=[*LOAD, dict(type='RandomResize', scale=[(333, 160), (333, 200)], keep_ratio=True), FLIP, PACK],
    jitter=[*LOAD, dict(type='RandomResize', scale=(256, 256), ratio_range=(0.1, 2.0), keep_ratio=True), FLIP, PACK],
    lsj=[*LOAD, dict(type='RandomResize', scale=(256, 256), ratio_range=(0.1, 2.0), keep_ratio=True),
         dict(type='RandomCrop', crop_type='absolute_range', crop_size=(256, 256), recompute_bbox=True,
              allow_negative_crop=True),
         dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)), FLIP, PACK],
    crop_absolute=[*LOAD, dict(type='RandomCrop', crop_size=(150, 120), crop_type='absolute'), PACK],
    crop_relative=[*LOAD, dict(type='RandomCrop', crop_size=(0.6, 0.7), crop_type='relative'), PACK],
    crop_relative_range=[*LOAD, dict(type='RandomCrop', crop_size=(0.3, 0.8), crop_type='relative_range',
                                     bbox_clip_border=False), PACK],
    filter=[*LOAD, dict(type='FilterAnnotations', min_gt_bbox_wh=(60, 40)), PACK],
    filter_masks=[*LOAD, dict(type='FilterAnnotations', min_gt_mask_area=1500, by_box=False, by_mask=True), PACK],
    filter_all=[*LOAD, dict(type='FilterAnnotations', min_gt_bbox_wh=(600, 40)), PACK],
    filter_all_kept=[*LOAD, dict(type='FilterAnnotations', min_gt_bbox_wh=(600, 40), keep_empty=False), PACK],
    polygons=[*LOAD_POLYGONS, dict(type='Resize', scale=(333, 200), keep_ratio=True),
              dict(type='RandomFlip', prob=1.0), PACK],
    polygons_vertical=[*LOAD_POLYGONS, dict(type='RandomFlip', prob=1.0, direction='vertical'), PACK],
    polygons_diagonal=[*LOAD_POLYGONS, dict(type='RandomFlip', prob=1.0, direction='diagonal'),
                       dict(type='Pad', size_divisor=32), PACK],
    polygons_squeezed=[*LOAD_POLYGONS, dict(type='Resize', scale=(257, 319), keep_ratio=False), PACK],
    polygons_crop=[*LOAD_POLYGONS, dict(type='RandomCrop', crop_size=(150, 120), crop_type='absolute'), PACK],
    boxes_only=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
                dict(type='Resize', scale=(333, 200), keep_ratio=True), FLIP, PACK],
    float32=[dict(type='LoadImageFromFile', to_float32=True), dict(type='LoadAnnotations', with_bbox=True),
             dict(type='Resize', scale=(333, 200), keep_ratio=True), PACK],
    pillow=[dict(type='LoadImageFromFile', imdecode_backend='pillow'), dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(333, 200), keep_ratio=True, backend='pillow'), PACK],
    test=[dict(type='LoadImageFromFile', backend_args=None), dict(type='Resize', scale=(333, 200), keep_ratio=True),
          dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
          dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))],
)
SEEDS = range(4)


def masks_answer(masks):
    """A hash of bitmaps; of polygons their points, wherever they begin, and the pixels that they cover."""
    if isinstance(masks.masks, np.ndarray):
        return digest(masks.masks)
    points = [[sorted(np.asarray(part, dtype=np.float64).round(3).reshape(-1, 2).tolist()) for part in parts]
              for parts in masks.masks]
    return dict(points=points, pixels=digest(np.asarray(masks.to_ndarray(), dtype=np.uint8)))


def instances_answer(instances, with_masks: bool = True) -> dict:
    boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
    out = dict(bboxes=boxes.numpy().astype(np.float64).tolist(), dtype=str(boxes.dtype),
               labels=instances.labels.tolist())
    if with_masks and 'masks' in instances:
        out.update(masks=masks_answer(instances.masks), mask_size=[instances.masks.height, instances.masks.width])
    return out


def write_image(folder, seed: int = 0, name: str = 'image.png', **size) -> str:
    path = str(Path(folder) / name)
    cv2.imwrite(path, make_image(seed, **size))
    return path


def run_pipeline(name: str, seed: int, folder) -> dict:
    """The packed input of a pipeline, with its random numbers from ``seed``."""
    polygons = any(step.get('poly2mask') is False for step in PIPELINES[name])
    results = dict(img_path=write_image(folder), img_id=seed, height=HEIGHT, width=WIDTH,
                   instances=copy.deepcopy(make_instances(rle=not polygons)))
    init_default_scope('mmdet')
    pipeline = Compose(copy.deepcopy(PIPELINES[name]))
    np.random.seed(seed)
    return pipeline(results)


def pipeline_answer(name: str, seed: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        packed = run_pipeline(name, seed, folder)
    if packed is None:
        return dict(nothing=True)
    sample = packed['data_samples']
    keys = ('img_shape', 'ori_shape', 'scale_factor', 'flip', 'flip_direction', 'img_id')
    meta = {key: np.asarray(sample.metainfo[key]).tolist() for key in keys if key in sample.metainfo}
    out = dict(inputs=digest(packed['inputs'].numpy()), meta=meta, gt=instances_answer(sample.gt_instances))
    if len(sample.ignored_instances):
        # An object whose mask is of no use is ignored; what stands in for its polygon is nobody's business.
        out['ignored'] = instances_answer(sample.ignored_instances, 'polygons' not in name)
    return out


PREPROCESSORS = dict(
    standard=dict(mean=MEAN, std=STD, bgr_to_rgb=True, pad_mask=True, pad_size_divisor=32),
    caffe=dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False, pad_mask=True,
               pad_size_divisor=32),
    values=dict(mean=MEAN, std=STD, rgb_to_bgr=True, pad_mask=True, mask_pad_value=1, pad_value=0.5,
                pad_size_divisor=7),
    plain=dict(pad_size_divisor=1),
    fixed=dict(mean=MEAN, std=STD, bgr_to_rgb=True, pad_mask=True, pad_size_divisor=32,
               batch_augments=[dict(type='BatchFixedSizePad', size=(400, 420), pad_mask=True)]),
)


def preprocessor_answer(name: str) -> dict:
    """A batch of two images of different sizes, stacked, normalized and padded for training."""
    from mmdet.registry import MODELS
    init_default_scope('mmdet')
    preprocessor = MODELS.build(dict(type='DetDataPreprocessor', **copy.deepcopy(PREPROCESSORS[name])))
    with tempfile.TemporaryDirectory() as folder:
        batch = pseudo_collate([run_pipeline('standard', 0, folder), run_pipeline('choice', 1, folder)])
    batch = preprocessor(batch, training=True)
    meta = [{key: list(sample.metainfo[key]) for key in ('batch_input_shape', 'pad_shape', 'img_shape')}
            for sample in batch['data_samples']]
    return dict(inputs=digest(batch['inputs'].numpy()), meta=meta,
                masks=[masks_answer(sample.gt_instances.masks) for sample in batch['data_samples']])
