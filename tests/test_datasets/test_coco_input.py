"""CocoDataset: entries it refuses, images it cannot read, what its pipeline gives."""

import json
import logging
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope

from mmdet.datasets import CocoDataset, ConcatDataset, RepeatDataset
from mmdet.datasets.coco import COCO_CLASSES
from mmdet.registry import DATASETS

COCO100 = Path(__file__).resolve().parents[2] / '..' / 'shared' / 'data' / 'coco100'
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def annotation(image_id=1, category_id=18, bbox=(10, 10, 20, 20), **more):
    return dict(
        dict(
            id=1,
            image_id=image_id,
            category_id=category_id,
            bbox=list(bbox),
            area=bbox[2] * bbox[3],
            iscrowd=0,
            segmentation=[SQUARE],
        ),
        **more,
    )


def coco(annotations=(), **more):
    images = [dict(id=i, file_name=f'{i}.png', width=64, height=48) for i in (1, 2, 3)]
    categories = [dict(id=i, name=name) for i, name in ((90, 'toothbrush'), (18, 'dog'), (1, 'person'))]
    return dict(dict(images=images, annotations=list(annotations), categories=categories), **more)


@pytest.fixture
def build(tmp_path):
    init_default_scope('mmdet')

    def make(content, classes=('person', 'dog'), **kwargs):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / 'a.json').write_text(text)
        return CocoDataset(
            ann_file='a.json',
            data_root=str(tmp_path),
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=classes),
            **kwargs,
        )

    return make


def test_sparse_ids_become_positions_in_classes(build):
    data = build(coco([annotation(), annotation(category_id=1), annotation(category_id=90)]))
    assert data.cat2label == {1: 0, 18: 1}
    assert [i['bbox_label'] for i in data[0]['instances']] == [1, 0]  # the toothbrush is not asked for
    assert build(coco([annotation()]), classes=('dog', 'person')).cat2label == {18: 0, 1: 1}
    info = data[0]
    assert info['img_id'] == 1 and info['img_path'].endswith('images/1.png')
    assert (info['height'], info['width']) == (48, 64)
    assert info['instances'][0]['bbox'] == [10, 10, 30, 30] and info['instances'][0]['mask'] == [SQUARE]


def test_another_order_than_the_files_is_said(build, monkeypatch):
    """In mmdetection labels follow the file's order, so a model trained there would be off."""
    said = []
    monkeypatch.setattr(
        'mmdet.datasets.coco.print_log', lambda text, logger=None, level=logging.INFO: said.append((level, text))
    )
    build(coco([annotation()]), classes=('dog', 'person'))
    assert all(level < logging.WARNING for level, _ in said)  # the file has toothbrush, dog, person
    build(coco([annotation()]), classes=('person', 'dog'))
    assert sum(level == logging.WARNING and 'another order (dog, person)' in text for level, text in said) == 1


def test_eighty_classes_in_the_files_order():
    assert len(set(COCO_CLASSES)) == 80
    assert [COCO_CLASSES.index(name) for name in ('person', 'stop sign', 'tv', 'toothbrush')] == [0, 11, 62, 79]
    if COCO100.is_dir():
        categories = json.loads((COCO100 / 'annotations/instances_val2017.json').read_text())['categories']
        assert tuple(c['name'] for c in sorted(categories, key=lambda c: c['id'])) == COCO_CLASSES


def test_boxes_that_no_image_holds_are_left_out_and_counted_once(build, monkeypatch):
    log = []
    monkeypatch.setattr('mmdet.datasets.coco.print_log', lambda *args: log.append(args))
    bad = [annotation(bbox=box) for box in ((10, 10, 0, 5), (64, 5, 10, 10), (-20, 5, 10, 10), (5, -9, 10, 8))]
    good = [annotation(bbox=(50, 40, 30, 30)), annotation(segmentation=[SQUARE, [1, 1, 2, 2]])]
    data = build(coco(bad + good), classes=('dog', 'person'))
    assert [i['bbox'] for i in data[0]['instances']] == [[50, 40, 80, 70], [10, 10, 30, 30]]
    assert data[0]['instances'][1]['mask'] == [SQUARE]
    ((said, _, level),) = log
    assert 'a.json' in said and '4 boxes' in said and '1 polygons' in said and level == logging.WARNING
    build(coco([annotation()]), classes=('dog', 'person'))
    assert log[-1][2] == logging.INFO


@pytest.mark.parametrize(
    'content, words',
    [
        ('{"images": [', 'not JSON'),
        ('', 'not JSON'),
        ('[1, 2]', 'found a list'),
        (dict(images=[], annotations=[]), "'categories'"),
        (dict(coco(), annotations={'a': 1}), "'annotations'"),
        (coco(images=None), "'images'"),
        (coco(images=[dict(id=1, file_name='a.png', width=3)]), r"images\[0\] has no 'height'"),
        (coco([annotation(), dict(id=2, image_id=1)]), r"annotations\[1\] has no 'bbox'"),
        (coco([annotation(), 5]), r'annotations\[1\]'),
        (coco([annotation(), dict(id=2, image_id=1, bbox=[1, 2, 3])]), r'annotations\[1\].*bbox'),
        (coco([annotation(), dict(id=2, image_id=1, bbox=['1', 2, 3, 4])]), r'annotations\[1\].*bbox'),
        (coco(categories=[dict(id=1)]), r"categories\[0\] has no 'name'"),
    ],
)
def test_what_is_no_coco_file_is_refused(build, content, words):
    with pytest.raises(ValueError, match=words) as error:
        build(content)
    assert 'a.json' in str(error.value)


def test_classes_that_the_file_lacks_are_named(build):
    with pytest.raises(ValueError) as error:
        build(coco(), classes=('person', 'cat'))
    assert all(word in str(error.value) for word in ('a.json', "'cat'", "'dog'", "'toothbrush'"))


def test_unknown_key_is_refused(build):
    with pytest.raises(TypeError, match='filter_empty'):
        build(coco(), filter_empty=True)


def test_missing_and_broken_images_raise(build, tmp_path):
    data = build(
        coco([annotation(), annotation(image_id=2), annotation(image_id=3)]),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackDetInputs')],
    )
    with pytest.raises(FileNotFoundError, match='images/1.png'):
        data[0]
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/2.png').write_bytes(b'no image')
    (tmp_path / 'images/3.png').write_bytes(b'')
    for index in (1, 2):
        with pytest.raises(ValueError, match=f'images/{index + 1}.png'):
            data[index]


def test_pipeline_output(build, tmp_path):
    (tmp_path / 'images').mkdir()
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'images/1.png'), image)
    data = build(
        coco([annotation(), annotation(iscrowd=1, segmentation=dict(size=[48, 64], counts=[0, 3072]))]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_mask=True),
            dict(type='RandomFlip', prob=1.0),
            dict(type='PackDetInputs'),
        ],
    )
    item = pickle.loads(pickle.dumps(data[0]))
    assert np.array_equal(item['inputs'].numpy(), image[:, ::-1].transpose(2, 0, 1))
    sample = item['data_samples']
    assert sample.gt_instances.bboxes.tolist() == [[34, 10, 54, 30]] and sample.gt_instances.labels.tolist() == [1]
    assert sample.gt_instances.masks.masks[0, 10:30, 34:54].all() and sample.gt_instances.masks.masks.sum() == 400
    assert len(sample.ignored_instances) == 1 and sample.ignored_instances.masks.masks.all()
    assert (sample.img_id, sample.flip, sample.ori_shape) == (1, True, (48, 64))


def test_wrappers_are_registered(build):
    one = build(coco([annotation()]))
    assert len(RepeatDataset(one, times=4)) == 12
    assert len(ConcatDataset([one, one])) == 6
    assert DATASETS.get('RepeatDataset') is RepeatDataset and DATASETS.get('ConcatDataset') is ConcatDataset
