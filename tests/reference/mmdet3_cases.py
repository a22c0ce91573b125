"""Cases whose answers are recorded from mmdetection 3.x: what goes in, and what whichever ``mmdet`` is there answers.

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
        image[y1 : y1 + h, x1 : x1 + w] = colour
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
        out.append(
            dict(
                bbox=[round(float(v), 3) for v in (x, y, x + w, y + h)],
                bbox_label=int(rng.randint(80)),
                mask=mask,
                ignore_flag=int(i == number - 1),
            )
        )
    return out


def seeded_weights(model: torch.nn.Module, heat: float = 1.0) -> dict:
    """Weights that depend on names alone; detections with them are many and of all scores.

    Args:
        heat: of the class scores; much heat makes many of them exactly 1.
    """
    out = {}
    grey = float(model.data_preprocessor.std.mean())
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
            value = rng.uniform(0.6, 1.2, shape) * (0.3 if '.bn3.' in name else 0.6 if '.bn2.' in name else 1)
        else:
            fan_in = int(np.prod(shape[1:]))
            gain = next((g for key, g in GAINS.items() if key in name), 1.0)
            if name == 'backbone.conv1.weight':
                gain *= min(1.0, grey / 58)  # images that are not divided by their deviation
            if name.endswith('_cls.weight'):
                gain *= heat
            value = rng.normal(0, gain * np.sqrt(2 / fan_in), shape)
        out[name] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return out


GAINS = {
    'rpn_cls': 0.6,
    'rpn_reg': 0.12,
    'fc_cls': 1.6,
    'fc_reg': 0.4,
    'lateral_convs': 0.35,
    'fpn_convs': 0.5,
    'conv_logits': 2.0,
}

# -- pipelines --------------------------------------------------------------------------------------------------------

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
LOAD_POLYGONS = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
]
LOAD_BOXES = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
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
    directions=[
        *LOAD,
        dict(type='RandomFlip', prob=[0.3, 0.3, 0.3], direction=['horizontal', 'vertical', 'diagonal']),
        PACK,
    ],
    pad_divisor=[
        *LOAD,
        dict(type='Resize', scale=(333, 200), keep_ratio=True),
        dict(type='Pad', size_divisor=32),
        PACK,
    ],
    pad_size=[*LOAD, dict(type='Pad', size=(320, 240), pad_val=dict(img=(114, 115, 116), masks=0)), PACK],
    pad_square=[*LOAD, dict(type='Pad', pad_to_square=True, pad_val=dict(img=(7, 8, 9))), PACK],
    choice=[*LOAD, dict(type='RandomChoiceResize', scales=SCALES, keep_ratio=True), FLIP, PACK],
    between=[*LOAD, dict(type='RandomResize', scale=[(333, 160), (333, 200)], keep_ratio=True), FLIP, PACK],
    jitter=[*LOAD, dict(type='RandomResize', scale=(256, 256), ratio_range=(0.1, 2.0), keep_ratio=True), FLIP, PACK],
    lsj=[
        *LOAD,
        dict(type='RandomResize', scale=(256, 256), ratio_range=(0.1, 2.0), keep_ratio=True),
        dict(
            type='RandomCrop',
            crop_type='absolute_range',
            crop_size=(256, 256),
            recompute_bbox=True,
            allow_negative_crop=True,
        ),
        dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
        FLIP,
        PACK,
    ],
    crop_absolute=[*LOAD, dict(type='RandomCrop', crop_size=(150, 120), crop_type='absolute'), PACK],
    crop_relative=[*LOAD, dict(type='RandomCrop', crop_size=(0.6, 0.7), crop_type='relative'), PACK],
    crop_relative_range=[
        *LOAD,
        dict(type='RandomCrop', crop_size=(0.3, 0.8), crop_type='relative_range', bbox_clip_border=False),
        PACK,
    ],
    filter=[*LOAD, dict(type='FilterAnnotations', min_gt_bbox_wh=(60, 40)), PACK],
    filter_masks=[*LOAD, dict(type='FilterAnnotations', min_gt_mask_area=1500, by_box=False, by_mask=True), PACK],
    filter_all=[*LOAD, dict(type='FilterAnnotations', min_gt_bbox_wh=(600, 40)), PACK],
    filter_all_kept=[*LOAD, dict(type='FilterAnnotations', min_gt_bbox_wh=(600, 40), keep_empty=False), PACK],
    polygons=[
        *LOAD_POLYGONS,
        dict(type='Resize', scale=(333, 200), keep_ratio=True),
        dict(type='RandomFlip', prob=1.0),
        PACK,
    ],
    polygons_vertical=[*LOAD_POLYGONS, dict(type='RandomFlip', prob=1.0, direction='vertical'), PACK],
    polygons_diagonal=[
        *LOAD_POLYGONS,
        dict(type='RandomFlip', prob=1.0, direction='diagonal'),
        dict(type='Pad', size_divisor=32),
        PACK,
    ],
    polygons_squeezed=[*LOAD_POLYGONS, dict(type='Resize', scale=(257, 319), keep_ratio=False), PACK],
    polygons_crop=[*LOAD_POLYGONS, dict(type='RandomCrop', crop_size=(150, 120), crop_type='absolute'), PACK],
    boxes_only=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(333, 200), keep_ratio=True),
        FLIP,
        PACK,
    ],
    float32=[
        dict(type='LoadImageFromFile', to_float32=True),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(333, 200), keep_ratio=True),
        PACK,
    ],
    pillow=[
        dict(type='LoadImageFromFile', imdecode_backend='pillow'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(333, 200), keep_ratio=True, backend='pillow'),
        PACK,
    ],
    photometric=[*LOAD, dict(type='PhotoMetricDistortion'), PACK],
    photometric_strong=[
        *LOAD,
        dict(
            type='PhotoMetricDistortion',
            brightness_delta=90,
            contrast_range=(0.2, 1.9),
            saturation_range=(0.1, 2.5),
            hue_delta=100,
        ),
        PACK,
    ],
    expand=[*LOAD, dict(type='Expand', mean=MEAN, to_rgb=True, ratio_range=(1, 4)), PACK],
    expand_always=[*LOAD, dict(type='Expand', mean=(7, 7, 7), to_rgb=False, ratio_range=(1.2, 2), prob=1), PACK],
    min_iou=[*LOAD, dict(type='MinIoURandomCrop'), PACK],
    min_iou_low=[
        *LOAD,
        dict(type='MinIoURandomCrop', min_ious=(0.01, 0.02, 0.03), min_crop_size=0.5, bbox_clip_border=False),
        PACK,
    ],
    affine=[*LOAD_BOXES, dict(type='RandomAffine'), PACK],
    affine_strong=[
        *LOAD_BOXES,
        dict(
            type='RandomAffine',
            max_rotate_degree=45,
            max_translate_ratio=0.4,
            scaling_ratio_range=(0.4, 2.5),
            max_shear_degree=20,
            border=(-20, 30),
            border_val=(1, 2, 3),
        ),
        PACK,
    ],
    affine_unclipped=[*LOAD_BOXES, dict(type='RandomAffine', max_translate_ratio=0.5, bbox_clip_border=False), PACK],
    ssd=[
        *LOAD_BOXES,
        dict(type='Expand', mean=MEAN, to_rgb=True, ratio_range=(1, 4)),
        dict(type='MinIoURandomCrop', min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
        dict(type='Resize', scale=(300, 300), keep_ratio=False),
        FLIP,
        dict(type='PhotoMetricDistortion'),
        PACK,
    ],
    albu=[
        *LOAD,
        dict(
            type='Albu',
            transforms=[
                dict(type='HorizontalFlip', p=1.0),
                dict(type='Crop', x_min=40, y_min=30, x_max=220, y_max=170, p=1.0),
                dict(type='OneOf', transforms=[dict(type='ToGray', p=1.0)], p=1.0),
            ],
            bbox_params=dict(
                type='BboxParams',
                format='pascal_voc',
                label_fields=['gt_bboxes_labels', 'gt_ignore_flags'],
                min_visibility=0.1,
                filter_lost_elements=True,
            ),
            skip_img_without_anno=True,
        ),
        PACK,
    ],
    test=[
        dict(type='LoadImageFromFile', backend_args=None),
        dict(type='Resize', scale=(333, 200), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ],
)
SEEDS = range(4)


def masks_answer(masks):
    """A hash of bitmaps; of polygons their points, wherever they begin, and the pixels that they cover."""
    if isinstance(masks.masks, np.ndarray):
        return digest(masks.masks)
    points = [
        [sorted(np.asarray(part, dtype=np.float64).round(3).reshape(-1, 2).tolist()) for part in parts]
        for parts in masks.masks
    ]
    return dict(points=points, pixels=digest(np.asarray(masks.to_ndarray(), dtype=np.uint8)))


def instances_answer(instances, with_masks: bool = True) -> dict:
    boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
    out = dict(
        bboxes=boxes.numpy().astype(np.float64).tolist(), dtype=str(boxes.dtype), labels=instances.labels.tolist()
    )
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
    results = dict(
        img_path=write_image(folder),
        img_id=seed,
        height=HEIGHT,
        width=WIDTH,
        instances=copy.deepcopy(make_instances(rle=not polygons)),
    )
    init_default_scope('mmdet')
    pipeline = Compose(copy.deepcopy(PIPELINES[name]))
    np.random.seed(seed)
    return pipeline(results)


def pipeline_answer(name: str, seed: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        packed = run_pipeline(name, seed, folder)
    return packed_answer(packed, 'polygons' not in name)


def packed_answer(packed, masks_of_ignored: bool = True) -> dict:
    if packed is None:
        return dict(nothing=True)
    sample = packed['data_samples']
    keys = ('img_shape', 'ori_shape', 'scale_factor', 'flip', 'flip_direction', 'img_id')
    meta = {key: np.asarray(sample.metainfo[key]).tolist() for key in keys if key in sample.metainfo}
    out = dict(inputs=digest(packed['inputs'].numpy()), meta=meta, gt=instances_answer(sample.gt_instances))
    if len(sample.ignored_instances):
        # An object whose mask is of no use is ignored; what stands in for its polygon is nobody's business.
        out['ignored'] = instances_answer(sample.ignored_instances, masks_of_ignored)
    return out


# -- several images ---------------------------------------------------------------------------------------------------

MIX_SEEDS = range(8)
MIXES = dict(
    all=dict(selected=False),
    some=dict(),
    few=dict(max_num_pasted=3),
    strict=dict(selected=False, bbox_occluded_thr=0, mask_occluded_thr=3000),
    boxes=dict(paste_by_box=True),
)


def mix_answer(name: str, seed: int) -> dict:
    """A sample of MultiImageMixDataset with CopyPaste, of three images of one size; the image as float64 values."""
    from mmdet.datasets import CocoDataset, MultiImageMixDataset
    from mmdet.registry import TRANSFORMS

    class Images(CocoDataset):
        def load_data_list(self):
            return [
                dict(
                    img_path=write_image(folder, i, f'{i}.png'),
                    img_id=i,
                    height=HEIGHT,
                    width=WIDTH,
                    instances=copy.deepcopy(make_instances(i, number=4, rle=False)),
                )
                for i in range(3)
            ]

        def filter_data(self):
            return self.data_list

    init_default_scope('mmdet')
    load = LOAD_BOXES if name == 'boxes' else LOAD
    with tempfile.TemporaryDirectory() as folder:
        images = Images(pipeline=copy.deepcopy(load), serialize_data=False)
        paste = dict(type='CopyPaste', **MIXES[name])
        mixed = MultiImageMixDataset(images, [paste, dict(type='RandomFlip', prob=0.5)])
        np.random.seed(seed)
        results = mixed[seed % 3]
        results['img'] = results['img'].astype(np.float64)
        return packed_answer(TRANSFORMS.build(PACK)(results))


PREPROCESSORS = dict(
    standard=dict(mean=MEAN, std=STD, bgr_to_rgb=True, pad_mask=True, pad_size_divisor=32),
    caffe=dict(
        mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False, pad_mask=True, pad_size_divisor=32
    ),
    values=dict(
        mean=MEAN, std=STD, rgb_to_bgr=True, pad_mask=True, mask_pad_value=1, pad_value=0.5, pad_size_divisor=7
    ),
    plain=dict(pad_size_divisor=1),
    fixed=dict(
        mean=MEAN,
        std=STD,
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
        batch_augments=[dict(type='BatchFixedSizePad', size=(400, 420), pad_mask=True)],
    ),
)


def preprocessor_answer(name: str) -> dict:
    """A batch of two images of different sizes, stacked, normalized and padded for training."""
    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    preprocessor = MODELS.build(dict(type='DetDataPreprocessor', **copy.deepcopy(PREPROCESSORS[name])))
    with tempfile.TemporaryDirectory() as folder:
        batch = pseudo_collate([run_pipeline('standard', 0, folder), run_pipeline('choice', 1, folder)])
    batch = preprocessor(batch, training=True)
    meta = [
        {key: list(sample.metainfo[key]) for key in ('batch_input_shape', 'pad_shape', 'img_shape')}
        for sample in batch['data_samples']
    ]
    return dict(
        inputs=digest(batch['inputs'].numpy()),
        meta=meta,
        masks=[masks_answer(sample.gt_instances.masks) for sample in batch['data_samples']],
    )


def tta_answer(seed: int) -> dict:
    """What DetTTAModel makes of four versions of an image; boxes and scores to six digits."""
    from mmengine.structures import InstanceData

    from mmdet.models.test_time_augs import DetTTAModel
    from mmdet.structures import DetDataSample

    rng = np.random.RandomState(seed)
    base = rng.uniform(0, (200, 150), (12, 2))
    base = np.concatenate([base, base + rng.uniform(10, 80, (12, 2))], 1)
    versions = []
    for direction in (None, 'horizontal', 'vertical', 'diagonal'):
        boxes = torch.from_numpy(np.clip(base + rng.normal(0, 4, base.shape), 0, (293, 211) * 2)).float()
        x1, y1, x2, y2 = boxes.unbind(1)
        if direction in ('horizontal', 'diagonal'):
            x1, x2 = WIDTH - x2, WIDTH - x1
        if direction in ('vertical', 'diagonal'):
            y1, y2 = HEIGHT - y2, HEIGHT - y1
        sample = DetDataSample(
            metainfo=dict(ori_shape=(HEIGHT, WIDTH), flip=direction is not None, flip_direction=direction)
        )
        sample.pred_instances = InstanceData(
            bboxes=torch.stack([x1, y1, x2, y2], 1),
            scores=torch.from_numpy(rng.uniform(0, 1, 12)).float(),
            labels=torch.from_numpy(rng.randint(0, 3, 12)),
        )
        versions.append(sample)
    cfg = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=10 + 10 * (seed % 2))

    class Model(torch.nn.Module):
        def test_step(self, data):
            raise NotImplementedError

    merged = DetTTAModel(tta_cfg=cfg, module=Model()).merge_preds([versions])[0].pred_instances
    return dict(
        bboxes=merged.bboxes.double().numpy().round(3).tolist(),
        scores=merged.scores.double().numpy().round(6).tolist(),
        labels=merged.labels.tolist(),
    )


# -- models -----------------------------------------------------------------------------------------------------------


def rcnn(masks: bool, depth: int = 50, **changes) -> ConfigDict:
    """mmdetection's R-50-FPN model dicts, written out, with dotted ``changes``."""
    coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0] * 4)

    def assigner(positive, negative, low_quality):
        return dict(
            type='MaxIoUAssigner',
            pos_iou_thr=positive,
            neg_iou_thr=negative,
            min_pos_iou=negative,
            match_low_quality=low_quality,
            ignore_iof_thr=-1,
        )

    def extractor(size):
        return dict(
            type='SingleRoIExtractor',
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
            roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=0, use_torchvision=True),
        )

    channels = [256, 512, 1024, 2048] if depth >= 50 else [64, 128, 256, 512]
    model = ConfigDict(
        type='MaskRCNN' if masks else 'FasterRCNN',
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True, pad_mask=masks, pad_size_divisor=32
        ),
        backbone=dict(
            type='ResNet',
            depth=depth,
            num_stages=4,
            out_indices=(0, 1, 2, 3),
            frozen_stages=1,
            norm_cfg=dict(type='BN', requires_grad=True),
            norm_eval=True,
            style='pytorch',
        ),
        neck=dict(type='FPN', in_channels=channels, out_channels=256, num_outs=5),
        rpn_head=dict(
            type='RPNHead',
            in_channels=256,
            feat_channels=256,
            anchor_generator=dict(
                type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
            ),
            bbox_coder=coder,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=extractor(7),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                bbox_coder=dict(coder, target_stds=[0.1, 0.1, 0.2, 0.2]),
                reg_class_agnostic=False,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='L1Loss', loss_weight=1.0),
            ),
        ),
        train_cfg=dict(
            rpn=dict(
                assigner=assigner(0.7, 0.3, True),
                allowed_border=-1,
                pos_weight=-1,
                debug=False,
                sampler=dict(type='RandomSampler', num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False),
            ),
            rpn_proposal=dict(nms_pre=2000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
            rcnn=dict(
                assigner=assigner(0.5, 0.5, masks),
                mask_size=28,
                pos_weight=-1,
                debug=False,
                sampler=dict(type='RandomSampler', num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
            ),
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
            rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5),
        ),
    )
    if masks:
        model.roi_head.update(
            mask_roi_extractor=extractor(14),
            mask_head=dict(
                type='FCNMaskHead',
                num_convs=4,
                in_channels=256,
                conv_out_channels=256,
                num_classes=80,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
            ),
        )
    for path, value in changes.items():
        *parents, key = path.split('__')
        node = model
        for parent in parents:
            node = node[parent]
        node[key] = value
    return model


CAFFE = dict(
    backbone__style='caffe',
    backbone__norm_cfg=dict(type='BN', requires_grad=False),
    data_preprocessor__mean=[103.530, 116.280, 123.675],
    data_preprocessor__std=[1.0, 1.0, 1.0],
    data_preprocessor__bgr_to_rgb=False,
)
DECODED = dict(
    roi_head__bbox_head__reg_decoded_bbox=True, roi_head__bbox_head__loss_bbox=dict(type='GIoULoss', loss_weight=10.0)
)
MODELS_CFG = dict(
    faster=rcnn(False),
    mask=rcnn(True),
    caffe=rcnn(True, 50, **CAFFE),
    agnostic=rcnn(True, 18, roi_head__bbox_head__reg_class_agnostic=True, roi_head__mask_head__class_agnostic=True),
    giou=rcnn(False, 18, **DECODED),
    iou_rpn=rcnn(
        False,
        18,
        rpn_head__reg_decoded_bbox=True,
        rpn_head__loss_bbox=dict(type='IoULoss', mode='linear', loss_weight=2.0),
    ),
    smooth=rcnn(
        False,
        18,
        rpn_head__loss_bbox=dict(type='SmoothL1Loss', beta=1.0 / 9.0, loss_weight=1.0),
        roi_head__bbox_head__loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
        train_cfg__rcnn__pos_weight=2.0,
        train_cfg__rpn__allowed_border=0,
    ),
    ohem=rcnn(
        False,
        18,
        train_cfg__rcnn__sampler=dict(
            type='OHEMSampler', num=64, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
        ),
    ),
    few=rcnn(
        True,
        18,
        train_cfg__rpn__sampler__num=16,
        train_cfg__rcnn__sampler__num=16,
        train_cfg__rcnn__assigner__ignore_iof_thr=0.4,
        train_cfg__rpn__assigner__ignore_iof_thr=0.4,
        test_cfg__rpn__nms_pre=200,
        test_cfg__rpn__max_per_img=100,
        test_cfg__rpn__min_bbox_size=20,
    ),
    conv_head=rcnn(
        False,
        18,
        roi_head__bbox_head__type='Shared4Conv1FCBBoxHead',
        roi_head__bbox_head__norm_cfg=dict(type='GN', num_groups=32),
        neck__norm_cfg=dict(type='GN', num_groups=32),
    ),
)

PREDICTIONS = ('mask', 'mask_hot', 'caffe', 'agnostic', 'iou_rpn', 'few', 'few_hot', 'conv_head')
WITH_MASKS = ('mask', 'few')
PLAIN = ('standard', 'choice')
LOSSES = {  # model and the pipelines of the two images
    **{name: (name, PLAIN) for name in MODELS_CFG},
    'few_hot': ('few_hot', PLAIN),
    'few_polygons': ('few', ('polygons', 'polygons_vertical')),
    'few_one_empty': ('few', ('filter_all_kept', 'choice')),
    'few_all_empty': ('few', ('filter_all_kept', 'filter_all_kept')),
    'agnostic_padded': ('agnostic', ('pad_divisor', 'lsj')),
}


def build(name: str) -> torch.nn.Module:
    """The model with its weights; ``NAME_hot`` has many scores of exactly 1."""
    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    name, *hot = name.split('_hot')
    model = MODELS.build(copy.deepcopy(MODELS_CFG[name]))
    model.load_state_dict(seeded_weights(model, heat=12.0 if hot else 1.0))
    return model


def rle_sum(masks) -> list:
    """Masks (K, H, W) as the places where they change, flat, K lists."""
    return [
        np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask, dtype=np.int8).ravel()]))).tolist()
        for mask in masks
    ]


def prediction_answer(name: str, masks: bool = True) -> list:
    """Detections of a batch of two images of different sizes, in pixels of the originals."""
    model = build(name).eval()
    with tempfile.TemporaryDirectory() as folder:
        batch = pseudo_collate([run_pipeline('test', 0, folder), run_pipeline('squeezed', 1, folder)])
    with torch.no_grad():
        samples = model.test_step(batch)
    out = []
    for sample in samples:
        found = sample.pred_instances
        answer = dict(
            bboxes=found.bboxes.double().numpy().round(3).tolist(),
            scores=found.scores.double().numpy().round(5).tolist(),
            labels=found.labels.tolist(),
        )
        if masks and 'masks' in found:
            answer['masks'] = rle_sum(found.masks.numpy()[:8])
        out.append(answer)
    return out


def losses_answer(name: str) -> dict:
    """Every loss of a batch, and norms of gradients, with sampling from ``torch.manual_seed``."""
    model, pipelines = LOSSES[name]
    model = build(model).train()
    with tempfile.TemporaryDirectory() as folder:
        batch = pseudo_collate([run_pipeline(pipeline, i, folder) for i, pipeline in enumerate(pipelines)])
    batch = model.data_preprocessor(batch, True)
    torch.manual_seed(0)
    losses = model(**batch, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    out = {key: [v.item() for v in (value if isinstance(value, list) else [value])] for key, value in losses.items()}
    parts = ('backbone.layer2', 'backbone.layer4', 'neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head')
    parameters = dict(model.named_parameters())
    for part in parts:
        grads = [p.grad.double().norm() for key, p in parameters.items() if key.startswith(part) and p.grad is not None]
        if grads:
            out[f'grad {part}'] = [float(torch.stack(grads).norm())]
    return out
