"""Annotation files with anything in them: read, or refused with the file and the key."""
import json

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from fuzzing import mutated, run
from hypothesis import strategies as st
from mmengine.structures import InstanceData

from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.structures import DetDataSample

CLASSES = ('a', 'b')
COUNTS = coco_mask.encode(np.asfortranarray(np.eye(24, 32, dtype=np.uint8)))['counts'].decode()
PIPELINE = [dict(type='mmdet.LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='mmdet.RandomFlip', prob=0.5), dict(type='mmdet.PackDetInputs')]


def annotations():
    boxes = [[2, 2, 10, 8], [5, 6, 12.5, 9], [0, 0, 20, 20]]
    masks = [[[2, 2, 12, 2, 12, 10, 2, 10]], dict(size=[24, 32], counts=[100, 20, 648]),
             dict(size=[24, 32], counts=COUNTS)]
    return dict(
        images=[dict(id=i, file_name=f'{i}.png', height=24, width=32) for i in (1, 2, 3)],
        annotations=[dict(id=i, image_id=i % 3 + 1, category_id=i % 2 + 1, bbox=boxes[i % 3], area=80,
                          iscrowd=int(i == 4), segmentation=masks[i % 3]) for i in range(6)],
        categories=[dict(id=1, name='a'), dict(id=2, name='b')])


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-2**70, 2**70), st.floats(), st.text(max_size=5),
    st.sampled_from(['', '\0', '../x', '9' * 50, [], {}, [[]], [[[]]], [[1, 2, 3]], [[1, 2, 3, 4, 5, 6, 7]], 2**63,
                     -1, 0, 1e308, float('nan'), float('inf'), [float('nan')] * 4, [0, 0, 0, 0], [1e9, 1e9, 1, 1],
                     [5, 5, -3, -3], [[float('nan')] * 6], [[1e9] * 8], [[-1e300, 0, 1e300, 0, 1, 1]],
                     dict(size=[2**31, 2**31], counts='0'), dict(size=[24, 32], counts='000'), dict(size=[24, 32]),
                     dict(size=[24, 32], counts='~~~~'),
                     dict(size=[24, 32], counts=[768]), dict(size=[24, 32], counts=[2**40]), dict(counts=[1])]))


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
        data = CocoDataset(ann_file=str(path), data_prefix=dict(img=str(folder)), metainfo=dict(classes=CLASSES),
                           pipeline=PIPELINE, filter_cfg=dict(filter_empty_gt=True, min_size=2))
        for i in range(len(data)):
            sample = data[i]['data_samples']
            boxes = sample.gt_instances.bboxes
            assert boxes.isfinite().all() and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes.abs() <= 2**21).all()
        data = CocoDataset(ann_file=str(path), data_prefix=dict(img=str(folder)), metainfo=dict(classes=CLASSES),
                           pipeline=PIPELINE, test_mode=True)
        metric = CocoMetric(str(path), metric=['bbox', 'segm'])
        metric.dataset_meta = dict(classes=CLASSES)
        for i in range(len(data)):
            image = data.get_data_info(i)
            mask = np.ones((1, min(image['height'], 24), min(image['width'], 32)))
            found = InstanceData(bboxes=np_tensor([[2, 2, 12, 10]]), scores=np_tensor([0.9]),
                                 labels=np_tensor([0]).long(), masks=np_tensor(mask).bool())
            metric.process({}, [dict(DetDataSample(metainfo=dict(img_id=image['img_id'])).to_dict(),
                                     pred_instances=found)])
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


@pytest.mark.parametrize('text', ['', 'null', '[', '[' * 100000, '{"images": ' + '9' * 5000 + '}', '\ufeff{}', '{}',
                                  '{"images": [], "annotations": [], "categories": []}'])
def test_what_is_no_annotation_file(folder, text):
    assert 'x.json' in use(folder, text)
