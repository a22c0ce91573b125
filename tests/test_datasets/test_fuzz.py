"""Annotation files with anything in them: read, or refused with the file and the key."""

import json

import cv2
import numpy as np
import pytest
import torch
from fuzzing import ODD, annotations, mutated, run
from mmengine.structures import InstanceData

from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.structures import DetDataSample

CLASSES = ('a', 'b')
PIPELINE = [
    dict(type='mmdet.LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs'),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('fuzz')
    for i in (1, 2, 3):
        cv2.imwrite(str(folder / f'{i}.png'), np.full((24, 32, 3), 50 * i, np.uint8))
    return folder


def use(folder, text):
    """Read, load every sample, evaluate: what a run does with the file."""
    path = folder / 'x.json'
    path.write_text(text)
    try:
        data = CocoDataset(
            ann_file=str(path),
            data_prefix=dict(img=str(folder)),
            metainfo=dict(classes=CLASSES),
            pipeline=PIPELINE,
            filter_cfg=dict(filter_empty_gt=True, min_size=2),
        )
        for i in range(len(data)):
            sample = data[i]['data_samples']
            boxes = sample.gt_instances.bboxes
            assert boxes.isfinite().all() and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes.abs() <= 2**21).all()
        data = CocoDataset(
            ann_file=str(path),
            data_prefix=dict(img=str(folder)),
            metainfo=dict(classes=CLASSES),
            pipeline=PIPELINE,
            test_mode=True,
        )
        metric = CocoMetric(str(path), metric=['bbox', 'segm'])
        metric.dataset_meta = dict(classes=CLASSES)
        for i in range(len(data)):
            image = data.get_data_info(i)
            mask = np.ones((1, min(image['height'], 24), min(image['width'], 32)))
            found = InstanceData(
                bboxes=np_tensor([[2, 2, 12, 10]]),
                scores=np_tensor([0.9]),
                labels=np_tensor([0]).long(),
                masks=np_tensor(mask).bool(),
            )
            metric.process(
                {}, [dict(DetDataSample(metainfo=dict(img_id=image['img_id'])).to_dict(), pred_instances=found)]
            )
        metric.evaluate(len(data))
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
        assert 'x.json' in said or f'image {folder}' in said, said
        return said
    return ''


def np_tensor(values):
    return torch.as_tensor(np.asarray(values, dtype=np.float32))


def test_the_file_itself_is_read(folder):
    assert use(folder, json.dumps(annotations())) == ''


@pytest.mark.parametrize('examples', [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_mutated_annotations(folder, examples):
    run(examples, mutated(annotations(), ODD, most=3), lambda data: use(folder, json.dumps(data)))


@pytest.mark.parametrize(
    'text',
    [
        '',
        'null',
        '[',
        '[' * 100000,
        '{"images": ' + '9' * 5000 + '}',
        '\ufeff{}',
        '{}',
        '{"images": [], "annotations": [], "categories": []}',
    ],
)
def test_what_is_no_annotation_file(folder, text):
    assert 'x.json' in use(folder, text)
