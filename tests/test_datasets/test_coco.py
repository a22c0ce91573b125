"""CocoDataset: what a file says becomes what the model sees; bad files are refused."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
import pytest
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


def dataset(tmp_path, data=None, classes=('dog', 'cat'), **kwargs):
    path = tmp_path / 'annotations.json'
    path.write_text(data if isinstance(data, str) else json.dumps(coco() if data is None else data))
    return CocoDataset(
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
    assert results['gt_bboxes'].dtype == np.float32 and results['gt_bboxes_labels'].dtype == np.int64
    polygons = dataset(tmp_path, coco(annotations=[annotation(1, 3)]))
    assert load(polygons, 0, poly2mask=False)['gt_masks'].masks[0][0].tolist() == [10, 5, 30, 5, 30, 15, 10, 15]
    with pytest.raises(ValueError, match='a.jpg.*RLE.*poly2mask=True'):
        load(dataset(tmp_path, test_mode=True), 0, poly2mask=False)


def test_spoilt_objects_are_left_out_counted_and_said_once(tmp_path, monkeypatch):
    log = []  # the logger writes to the stream of the test that made it
    monkeypatch.setattr('mmdet.datasets.coco.print_log', lambda message, *_: log.append(message))
    data = dataset(tmp_path, test_mode=True)
    said = '\n'.join(log)
    assert said.count('boxes without area') == 1 and '2 boxes without area or outside' in said
    assert '2 polygons of fewer than three points' in said and '1 images without objects' in said
    second = load(data, 1)
    assert second['gt_bboxes'].tolist() == [[30, 5, 50, 14], [10, 5, 30, 15]]
    # An object whose only polygon is spoilt is neither positive nor background.
    assert second['gt_ignore_flags'].tolist() == [False, True]


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
            boxes = sample.gt_instances.masks.get_bboxes()
            assert (boxes - sample.gt_instances.bboxes).abs().median() <= 1.5
    assert objects * 0.95 <= number <= objects
