"""What DetInferencer and inference_detector return and write, by form: recorded from mmdetection 3.x.

With mmdetection 3.x installed: python tests/reference/mmdet3_inferencer.py tests/data/mmdet3_inferencer.json
Only names that both have are used; in the tests the same code runs ours.
"""

import copy
import json
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose

IMAGE = np.random.RandomState(0).randint(0, 255, (60, 90, 3), dtype=np.uint8)


def make_config(with_mask: bool) -> Config:
    """A narrow Mask R-CNN or Faster R-CNN as mmdetection's configs write it."""
    coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4)
    extractor = dict(type='SingleRoIExtractor', out_channels=16, featmap_strides=[4, 8, 16, 32])
    smooth = dict(type='L1Loss', loss_weight=1.0)
    roi_head = dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(extractor, roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0)),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=16,
            fc_out_channels=32,
            roi_feat_size=7,
            num_classes=80,
            bbox_coder=dict(coder, target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_bbox=smooth,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        ),
    )
    if with_mask:
        roi_head.update(
            mask_roi_extractor=dict(extractor, roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0)),
            mask_head=dict(
                type='FCNMaskHead',
                num_convs=1,
                in_channels=16,
                conv_out_channels=16,
                num_classes=80,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
            ),
        )
    model = dict(
        type='MaskRCNN' if with_mask else 'FasterRCNN',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=32,
        ),
        backbone=dict(
            type='ResNet',
            depth=18,
            base_channels=8,
            num_stages=4,
            out_indices=(0, 1, 2, 3),
            frozen_stages=1,
            norm_cfg=dict(type='BN', requires_grad=True),
            norm_eval=True,
            style='pytorch',
        ),
        neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
        rpn_head=dict(
            type='RPNHead',
            in_channels=16,
            feat_channels=16,
            loss_bbox=smooth,
            bbox_coder=dict(coder, target_stds=[1.0] * 4),
            anchor_generator=dict(
                type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
            ),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        ),
        roi_head=roi_head,
        train_cfg=None,
        test_cfg=dict(
            rpn=dict(nms_pre=100, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
            rcnn=dict(score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=3, mask_thr_binary=0.5),
        ),
    )
    pipeline = [
        dict(type='LoadImageFromFile', backend_args=None),
        dict(type='Resize', scale=(128, 96), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=with_mask),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ]
    dataset = dict(
        type='CocoDataset',
        data_root='data/coco/',
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=pipeline,
    )
    return Config(
        dict(
            default_scope='mmdet',
            model=model,
            test_dataloader=dict(batch_size=1, dataset=dataset),
            visualizer=dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer'),
        )
    )


def form(value):
    """Types, in lists of the first element, and the order of keys."""
    if isinstance(value, dict):
        return {key: form(item) for key, item in value.items()}
    if isinstance(value, list):
        return [len(value), form(value[0])] if value else [0]
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f'{value.dtype} {tuple(value.shape)}'
    return type(value).__name__


def run(inferencer, folder: Path, inputs, **options) -> dict:
    """The form of a call's results, the names of the files it writes, and the form of one JSON file."""
    results = inferencer(inputs, out_dir=str(folder), **options)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())
    written = [form(json.loads((folder / name).read_text())) for name in files if name.endswith('.json')]
    return dict(results=form(results), files=files, written=written[:1])


def record(folder: Path) -> dict:
    """All forms; ``folder`` must be empty."""
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    a, b = str(folder / 'in' / 'a.png'), str(folder / 'in' / 'b.png')
    (folder / 'in').mkdir()
    for path in (a, b):
        cv2.imwrite(path, IMAGE)
    out = {}
    for name, with_mask in (('mask', True), ('box', False)):
        config = make_config(with_mask)
        inferencer = DetInferencer(copy.deepcopy(config), device='cpu', show_progress=False)
        both = dict(no_save_pred=False, pred_score_thr=0.0)
        out[f'{name}: file'] = run(inferencer, folder / name / '1', a, **both)
        out[f'{name}: folder'] = run(inferencer, folder / name / '2', str(folder / 'in'), batch_size=2, **both)
        out[f'{name}: no detections saved'] = run(inferencer, folder / name / '3', [a, b])
        out[f'{name}: no pictures saved'] = run(
            inferencer, folder / name / '4', a, no_save_vis=True, no_save_pred=False
        )
        out[f'{name}: in memory'] = {str(vis): form(inferencer(IMAGE, return_vis=vis)) for vis in (False, True)}
        out[f'{name}: nothing to do'] = form(inferencer([]))
        for source, image in (('file', a), ('array', IMAGE)):
            picture = inferencer(image, return_vis=True, draw_pred=False)['visualization'][0]
            out[f'{name}: picture of {source}'] = dict(
                BGR=bool((picture == IMAGE).all()), RGB=bool((picture == IMAGE[..., ::-1]).all())
            )
        found = inferencer(a, return_datasamples=True)['predictions'][0]
        model = init_detector(copy.deepcopy(config), device='cpu')
        pipeline = copy.deepcopy(config.test_dataloader.dataset.pipeline)
        pipeline[0].type = 'mmdet.LoadImageFromNDArray'
        for source, sample in (
            ('samples', found),
            ('detector', inference_detector(model, a)),
            ('pipeline', inference_detector(model, IMAGE, test_pipeline=Compose(pipeline))),
        ):
            out[f'{name}: {source}'] = dict(
                pred_instances={key: form(value) for key, value in sorted(sample.pred_instances.items())},
                metainfo={key: form(value) for key, value in sorted(sample.metainfo.items())},
            )
        out[f'{name}: dataset_meta'] = [
            sorted(model.dataset_meta),
            len(model.dataset_meta['palette']),
            list(model.dataset_meta['classes'][:2]),
        ]
    return out


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as name:
        Path(sys.argv[1]).write_text(json.dumps(record(Path(name)), indent=1) + '\n')
