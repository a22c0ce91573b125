"""CocoDataset: what a file says becomes what the model sees; bad files are refused."""

import json
import logging
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from mmengine.dataset import DefaultSampler

from mmdet.datasets import AspectRatioBatchSampler, CocoDataset, ConcatDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs

REAL = Path(__file__).resolve().parents[3] / 'shared' / 'data'
BLOCK = np.zeros((40, 60), dtype=np.uint8)
BLOCK[5:15, 10:30] = 1
RLE = coco_mask.encode(np.asfortranarray(BLOCK))


def uncompressed(mask):
    flat, counts, value = mask.flatten(order='F'), [], 0
    run = 0
    for pixel in flat:
        if pixel != value:
            counts.append(run)
            run, value = 0, pixel
        run += 1
    return dict(size=list(mask.shape), counts=counts + [run])


def annotation(i, image, category=7, bbox=(10, 5, 20, 10), **more):
    return (
        dict(
            id=i,
            image_id=image,
            category_id=category,
            bbox=list(bbox),
            area=bbox[2] * bbox[3],
            iscrowd=0,
            segmentation=[[10, 5, 30, 5, 30, 15, 10, 15]],
        )
        | more
    )


def coco(**change):
    data = dict(
        images=[
            dict(id=i, file_name=f'{name}.jpg', height=height, width=width)
            for i, name, height, width in ((3, 'a', 40, 60), (8, 'b', 60, 40), (9, 'c', 40, 60), (10, 'd', 20, 20))
        ],
        categories=[dict(id=90, name='cat'), dict(id=7, name='dog'), dict(id=1, name='bird')],
        annotations=[
            annotation(1, 3),
            annotation(2, 3, 90, segmentation=dict(size=[40, 60], counts=RLE['counts'].decode())),
            annotation(3, 3, 7, iscrowd=1, segmentation=uncompressed(BLOCK)),
            annotation(4, 3, 1),
            annotation(5, 8, 90, bbox=(0, 0, 5, 0)),
            annotation(6, 8, 90, bbox=(50, 5, 20, 9)),
            annotation(7, 8, 90, bbox=(30, 5, 20, 9), segmentation=[[1, 2, 3, 4], [30, 5, 40, 5, 40, 14]]),
            annotation(8, 8, 7, segmentation=[[1, 2, 3, 4]]),
            annotation(9, 10),
        ],
    )
    data.update(change)
    return data


def dataset(tmp_path, data=None, classes=('dog', 'cat'), kind=CocoDataset, **kwargs):
    path = tmp_path / 'annotations.json'
    path.write_text(data if isinstance(data, str) else json.dumps(coco() if data is None else data))
    return kind(
        ann_file=str(path),
        data_prefix=dict(img=str(tmp_path)),
        metainfo=dict(classes=classes),
        pipeline=kwargs.pop('pipeline', []),
        **kwargs,
    )


def load(data, i, **kwargs):
    info = data.get_data_info(i)
    return LoadAnnotations(with_mask=True, **kwargs)(dict(info, ori_shape=(info['height'], info['width'])))


def test_labels_crowds_and_other_categories(tmp_path):
    data = dataset(tmp_path, test_mode=True)
    assert len(data) == 4 and data.cat2label == {7: 0, 90: 1}
    first = data.get_data_info(0)
    assert first['img_id'] == 3 and first['img_path'] == str(tmp_path / 'a.jpg')
    assert [i['bbox_label'] for i in first['instances']] == [0, 1, 0]  # the bird is no class
    assert [i['ignore_flag'] for i in first['instances']] == [0, 0, 1]
    assert first['instances'][0]['bbox'] == [10, 5, 30, 15]


def test_three_kinds_of_masks_are_one(tmp_path):
    results = load(dataset(tmp_path, test_mode=True), 0)
    masks = results['gt_masks'].masks
    assert np.array_equal(masks[1], BLOCK) and np.array_equal(masks[2], BLOCK)
    assert (masks[0] != BLOCK).sum() <= 40  # pycocotools draws a polygon's border its own way
    assert results['gt_bboxes'].dtype == torch.float32 and results['gt_bboxes_labels'].dtype == np.int64
    polygons = dataset(tmp_path, coco(annotations=[annotation(1, 3)]))
    assert load(polygons, 0, poly2mask=False)['gt_masks'].masks[0][0].tolist() == [10, 5, 30, 5, 30, 15, 10, 15]
    with pytest.raises(ValueError, match='a.jpg.*RLE.*poly2mask=True'):
        load(dataset(tmp_path, test_mode=True), 0, poly2mask=False)


def test_spoilt_objects_are_left_out_counted_and_said_once(tmp_path, monkeypatch):
    log = []  # the logger writes to the stream of the test that made it
    monkeypatch.setattr('mmdet.datasets.coco.print_log', lambda message, *_: log.append(message))
    data = dataset(tmp_path)
    said = '\n'.join(log)
    assert said.count('boxes without area') == 1 and '2 boxes without area or outside' in said
    assert '2 polygons of fewer than three points' in said and '1 images without objects' in said
    second = load(data, 1)
    assert second['gt_bboxes'].tensor.tolist() == [[30, 5, 50, 14], [10, 5, 30, 15]]
    # An object whose only polygon is spoilt is neither positive nor background.
    assert second['gt_ignore_flags'].tolist() == [False, True]


@pytest.fixture
def log(monkeypatch):
    said = []
    monkeypatch.setattr('mmdet.datasets.coco.print_log', lambda text, _, level=logging.INFO: said.append((level, text)))
    return said


MASKED = [LoadAnnotations(with_mask=True)]


def test_the_objects_that_are_said_add_up(tmp_path, log):
    data = coco()
    data['annotations'] += [
        annotation(10, 77),
        annotation(11, 78),
        annotation(12, 3, 5),
        annotation(13, 3, None),
        annotation(14, 3, ignore='1', iscrowd='0'),
        annotation(15, 9, segmentation=[], area=None),
        annotation(16, 3, area='0'),
    ]
    dataset(tmp_path, data, pipeline=MASKED, filter_cfg=dict(min_size=32))
    assert log[-1][1].partition('.json: ')[2] == (
        '4 images, 16 objects = 3 to learn + 2 of no image of the file (annotations[9]: image_id 77) + 2 of no '
        'category of the file (annotations[11]: category_id 5) + 1 of other classes (annotations[3]) + 1 marked '
        "'ignore' (annotations[13]) + 3 boxes without area or outside the image (annotations[4]) + 1 in images below "
        'min_size=32 (annotations[8]) + 1 crowds, ignored (annotations[2]) + 2 without a mask, ignored '
        '(annotations[7]); 2 polygons of fewer than three points left out'
    )
    dataset(tmp_path, data, test_mode=True)
    assert '16 objects = 10 to find + 2 of no image' in log[-1][1] and 'area' not in log[-1][1]


@pytest.mark.parametrize(
    'change, level, words',
    [
        (dict(), logging.INFO, '20 objects'),
        (dict(iscrowd=1), logging.WARNING, '= 0 to learn + 20 crowds, ignored (annotations[0]); nothing is left to'),
        (dict(segmentation=[]), logging.WARNING, '= 0 to learn + 20 without a mask, ignored (annotations[0]); nothing'),
        (dict(iscrowd='0'), logging.INFO, '20 objects'),
    ],
)
def test_a_word_where_little_is_left(tmp_path, log, change, level, words):
    many = [annotation(i, 3, **change) for i in range(20)]
    dataset(tmp_path, coco(annotations=many, categories=[dict(id=7, name='dog')]), ('dog',), pipeline=MASKED)
    assert log[-1][0] == level and words in log[-1][1]
    few = [annotation(i, 3, iscrowd=int(i < 2)) for i in range(20)]  # a tenth
    dataset(tmp_path, coco(annotations=few))
    assert log[-1][0] == logging.INFO and '20 objects = 18 to learn + 2 crowds' in log[-1][1]


def test_one_image_twice(tmp_path, log):
    data = coco()
    data['images'][2]['file_name'] = 'a.jpg'
    dataset(tmp_path, data)
    assert "images[2] and one before it have the same file_name 'a.jpg'" in log[-1][1]


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda one: one.update(category_id={7: 0, 90: 1}[one['category_id']]), 'category_id is counted from another'),
        (
            lambda one: one.update(image_id=one['image_id'] - 1),
            'image_id is counted from another number.*Add 1 to each',
        ),
        (
            lambda one: one.update(image_id=one['image_id'] + 1000),
            r'image_id of 4 of 4 .*annotations\[0\] has 1001, ima',
        ),
        (lambda one: one.update(category_id='dog'), r"category_id of 4 of 4 .*annotations\[0\] has 'dog', categories"),
        (lambda one: one.update(bbox=[20, 10, 28, 19]), r'bbox must be.*look like \[x1, y1, x2, y2\]: \[20.0, 10.0'),
        (lambda one: one.update(bbox=[0.2, 0.1, 0.5, 0.5]), 'look like shares of the image, 0 to 1'),
    ],
)
def test_files_that_count_or_measure_differently(tmp_path, change, words):
    data = coco(annotations=[annotation(i, i, (7, 90)[i % 2]) for i in (1, 2, 3, 4)])
    data['categories'] = [dict(id=1, name='dog'), dict(id=2, name='cat')] if 'counted' in words else data['categories']
    for i, image in enumerate(data['images'], 1):
        image.update(id=i, width=30, height=20)
    if 'image_id is counted' in words:
        for one in data['annotations']:
            one['category_id'] = 1
    for one in data['annotations']:
        change(one)
    with pytest.raises(ValueError, match=f'annotations.json: .*{words}'):
        dataset(tmp_path, data)


def test_numbers_and_ids_that_are_texts(tmp_path):
    data = coco()
    expected = dataset(tmp_path, data, test_mode=True)
    for image in data['images']:
        image.update(width=str(image['width']), height=float(image['height']), id=str(image['id']))
    for one in data['annotations']:
        one.update(area=str(one['area']), iscrowd=str(one['iscrowd']), category_id=str(one['category_id']))
    for category in data['categories']:
        category['id'] = float(category['id'])
    got = dataset(tmp_path, data, test_mode=True)
    for i in range(4):
        assert dict(got.get_data_info(i), img_id=0) == dict(expected.get_data_info(i), img_id=0)
    assert got.get_data_info(0)['img_id'] == '3'


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(area='big'), r"annotations\[0\] \(id 1\): area must be a number of pixels, got 'big'"),
        (dict(area=float('nan')), r'annotations\[0\] \(id 1\): area must be a number of pixels, got nan'),
        (dict(iscrowd='no'), "iscrowd must be 0 or 1, got 'no'"),
        (dict(ignore=2), 'ignore must be 0 or 1, got 2'),
        (dict(category_id=[7]), r'category_id must be a number or a text, got \[7\]'),
        (dict(category_id=float('nan')), 'category_id must be a number or a text, got nan'),
        (dict(image_id=None), 'image_id must be a number or a text, got None'),
        (dict(image_id=True), 'image_id must be a number or a text, got True'),
    ],
)
def test_values_of_another_kind(tmp_path, change, words):
    with pytest.raises(ValueError, match=f'annotations.json: .*{words}'):
        dataset(tmp_path, coco(annotations=[annotation(1, 3) | change]))


def test_a_file_of_images_alone(tmp_path, log):
    data = {key: value for key, value in coco().items() if key != 'annotations'}
    assert len(dataset(tmp_path, data, test_mode=True)) == 4 and '4 images, 0 objects' in log[-1][1]
    with pytest.raises(ValueError, match="'annotations' is missing; there is nothing to learn"):
        dataset(tmp_path, data)


def test_a_rare_class_that_only_training_has(tmp_path, log):
    assert dataset(tmp_path, classes=('dog', 'lynx', 'cat'), test_mode=True).cat2label == {7: 0, 90: 2}
    assert log[0][0] == logging.WARNING and "has no category 'lynx' of metainfo.classes" in log[0][1]
    for options in (dict(classes=('dog', 'lynx')), dict(classes=('lynx',), test_mode=True)):
        with pytest.raises(ValueError, match="has no category 'lynx'.*belongs in its list 'categories'"):
            dataset(tmp_path, **options)


def test_classes_that_are_no_tuple_of_names(tmp_path):
    with pytest.raises(ValueError, match=r"got the text 'dog'; one class is a tuple with a comma: \('dog', \)"):
        dataset(tmp_path, classes=('dog'))
    with pytest.raises(ValueError, match="must be different names, got 'dog', 'dog'"):
        dataset(tmp_path, classes=('dog', 'dog'))
    (tmp_path / 'names.txt').write_text('cat\ndog\n')
    assert dataset(tmp_path, classes=str(tmp_path / 'names.txt')).cat2label == {90: 0, 7: 1}


def test_images_by_category(tmp_path):
    data = dataset(tmp_path, test_mode=True)
    assert data.cat_ids == [90, 7] and data.cat_img_map == {90: [3, 8], 7: [3, 8, 10]}


def test_an_image_as_a_subclass_reads_it(tmp_path):
    class Own(CocoDataset):
        def parse_data_info(self, raw_data_info):
            objects = [one for one in raw_data_info['raw_ann_info'] if one['id'] != 2]
            info = super().parse_data_info(dict(raw_data_info, raw_ann_info=objects))
            return dict(info, name=raw_data_info['raw_img_info']['file_name'])

    plain, own = dataset(tmp_path, test_mode=True), dataset(tmp_path, test_mode=True, kind=Own)
    assert len(plain) == len(own) == 4
    for i, name in enumerate('abcd'):
        want, info = plain.get_data_info(i), own.get_data_info(i)
        objects = [one for k, one in enumerate(want['instances']) if (name, k) != ('a', 1)]
        assert info == dict(want, name=f'{name}.jpg', instances=objects)
    assert len(own.get_data_info(0)['instances']) == 2


def test_backslashes_of_windows(tmp_path):
    data = coco()
    data['images'][0]['file_name'] = 'cats\\a.jpg'
    assert dataset(tmp_path, data).get_data_info(0)['img_path'] == str(tmp_path / 'cats/a.jpg')
    (tmp_path / 'cats\\a.jpg').write_bytes(b'')
    assert dataset(tmp_path, data).get_data_info(0)['img_path'] == str(tmp_path / 'cats\\a.jpg')


def test_filter(tmp_path):
    kept = dataset(tmp_path, filter_cfg=dict(filter_empty_gt=True, min_size=32))
    assert [kept.get_data_info(i)['img_id'] for i in range(len(kept))] == [3, 8]
    assert len(dataset(tmp_path)) == 4
    with pytest.raises(ValueError, match='none of 4 images'):
        dataset(tmp_path, filter_cfg=dict(min_size=500))


def test_packed(tmp_path):
    results = load(dataset(tmp_path, test_mode=True), 0)
    results.update(img=np.zeros((40, 60, 3), dtype=np.uint8), img_shape=(40, 60))
    packed = PackDetInputs()(results)
    sample = packed['data_samples']
    assert packed['inputs'].shape == (3, 40, 60) and sample.img_id == 3 and sample.ori_shape == (40, 60)
    assert len(sample.gt_instances) == 2 and len(sample.gt_instances.masks) == 2
    assert len(sample.ignored_instances) == 1 and sample.ignored_instances.labels.tolist() == [0]


@pytest.mark.parametrize(
    'data, says',
    [
        ('nonsense', 'annotations.json.*not JSON'),
        ('[1, 2]', 'COCO.*list'),
        ({k: v for k, v in coco().items() if k != 'categories'}, "'categories' is missing.*images"),
        (coco(images=[dict(id=1)]), r"images\[0\] has no 'file_name'"),
        (coco(annotations=dict()), "'annotations' is missing"),
    ],
)
def test_files_that_are_not_coco(tmp_path, data, says):
    with pytest.raises(ValueError, match=says):
        dataset(tmp_path, data)


def test_missing_file_and_classes(tmp_path):
    with pytest.raises(FileNotFoundError, match='no.json.*INSTALL.md'):
        CocoDataset(ann_file='no.json', pipeline=[])
    with pytest.raises(ValueError, match=r"'person'.*metainfo.classes.*'cat', 'dog', 'bird'"):
        dataset(tmp_path, classes=('person', 'dog'))


def test_eighty_classes():
    assert len(CocoDataset.METAINFO['classes']) == len(set(CocoDataset.METAINFO['classes'])) == 80


def test_batches_of_one_orientation(tmp_path):
    shapes = [(40, 60), (60, 40)] * 5 + [(40, 60)]
    images = [dict(id=i, file_name='x', height=h, width=w) for i, (h, w) in enumerate(shapes)]
    data = ConcatDataset([dataset(tmp_path, coco(images=images, annotations=[]), test_mode=True)])
    batches = list(AspectRatioBatchSampler(DefaultSampler(data, shuffle=True, seed=0), 2))
    assert sorted(i for batch in batches for i in batch) == list(range(11))
    assert sum(len({shapes[i] for i in batch}) > 1 for batch in batches) <= 1
    assert len(batches) == len(AspectRatioBatchSampler(DefaultSampler(data), 2)) == 6
    assert len(list(AspectRatioBatchSampler(DefaultSampler(data), 2, drop_last=True))) == 5
    with pytest.raises(ValueError, match='batch_size'):
        AspectRatioBatchSampler(DefaultSampler(data), 0)


@pytest.mark.skipif(not REAL.exists(), reason='the real data sets are not beside the checkout')
@pytest.mark.parametrize(
    'name, split, classes, images, objects',
    [
        ('coco100', 'val2017', None, 20, 80),
        ('nuclei', 'val', ('nucleus',), 107, 3217),
        ('bccd', 'val', ('RBC', 'WBC', 'Platelets'), 72, 945),
    ],
)
def test_real_data(name, split, classes, images, objects):
    ann = f'annotations/instances_{split}.json' if name == 'coco100' else f'annotations/{split}.json'
    data = CocoDataset(
        data_root=str(REAL / name),
        ann_file=ann,
        data_prefix=dict(img=split),
        test_mode=True,
        metainfo=dict(classes=classes) if classes else None,
        pipeline=[
            dict(type='mmdet.LoadImageFromFile'),
            dict(type='mmdet.LoadAnnotations', with_mask=name != 'bccd'),
            dict(type='mmdet.PackDetInputs'),
        ],
    )
    assert len(data) == images
    number = 0
    for item in (data[i] for i in range(len(data))):
        sample = item['data_samples']
        assert tuple(item['inputs'].shape[1:]) == tuple(sample.ori_shape)
        number += len(sample.gt_instances) + len(sample.ignored_instances)
        if name != 'bccd' and len(sample.gt_instances):
            boxes = sample.gt_instances.masks.get_bboxes().tensor
            assert (boxes - sample.gt_instances.bboxes).abs().median() <= 1.5
    assert objects * 0.95 <= number <= objects
