"""CocoMetric: classes, sizes, thresholds and proposals out of the ordinary."""

import contextlib
import io
import json
import pickle

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet.evaluation import CocoMetric, DumpDetResults
from mmdet.structures.mask import encode_mask_results

CLASSES = ('dog', 'person')  # not in the order of their ids
SIZE = (120, 160)


def draw(box):
    mask = np.zeros(SIZE, dtype=np.uint8)
    x, y, w, h = (int(v) for v in box)
    mask[y : y + h, x : x + w] = 1
    return mask


@pytest.fixture(scope='module')
def content():
    """Five images: objects of all sizes, a crowd, an image without objects."""
    rng = np.random.default_rng(0)
    annotations = []
    for image_id in (3, 5, 7, 11):
        for i in range(6):
            width, height = rng.integers(*((97, 118) if i in (2, 3) else (34, 90) if i == 1 else (10, 32)), 2)
            box = [int(rng.integers(0, 160 - width)), int(rng.integers(0, 120 - height)), int(width), int(height)]
            rle = coco_mask.encode(np.asfortranarray(draw(box)))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=(1, 18)[i % 2],
                    bbox=box,
                    area=int(width * height),
                    iscrowd=int(i == 5 and image_id == 5),
                    segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
                )
            )
    images = [dict(id=i, file_name=f'{i}.jpg', height=SIZE[0], width=SIZE[1]) for i in (3, 5, 7, 11, 13)]
    return dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=1, name='person'), dict(id=18, name='dog'), dict(id=90, name='cat')],
    )


@pytest.fixture(scope='module')
def ann_file(content, tmp_path_factory):
    path = tmp_path_factory.mktemp('coco') / 'val.json'
    path.write_text(json.dumps(content))
    return str(path)


def prediction(image_id, boxes, scores, labels):
    found = dict(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels, dtype=torch.int64),
    )
    drawn = [draw((x1, y1, x2 - x1, y2 - y1)) for x1, y1, x2, y2 in boxes]
    found['masks'] = torch.from_numpy(np.array(drawn, dtype=bool).reshape(-1, *SIZE))
    return dict(img_id=image_id, ori_shape=SIZE, pred_instances=found)


def predictions(content, noise=0, extra=0):
    """What is there, its boxes moved by up to ``noise`` pixels, and ``extra`` boxes that are not there."""
    rng = np.random.default_rng(0)
    out = []
    for image in content['images']:
        own = [a for a in content['annotations'] if a['image_id'] == image['id'] and not a['iscrowd']]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a['bbox'] for a in own)]
        boxes = [(np.array(b) + rng.integers(-noise, noise + 1, 4)).clip(0).tolist() for b in boxes]
        labels = [{18: 0, 1: 1}[a['category_id']] for a in own]
        for _ in range(extra):
            x, y, w, h = rng.integers(1, 50, 4)
            boxes.append([int(x), int(y), int(x + w), int(y + h)])
            labels.append(int(rng.integers(2)))
        out.append(prediction(image['id'], boxes, rng.uniform(0.1, 1, len(boxes)).tolist(), labels))
    return out


def evaluate(metric, samples, size=5):
    metric.dataset_meta = dict(classes=CLASSES)
    for sample in samples:
        metric.process({}, [sample])
    return metric.evaluate(size)


def reference(ann_file, samples, iou_thrs=None, use_cats=True):
    """pycocotools by itself; its COCOeval after summarize()."""
    items = []
    for sample in samples:
        found = sample['pred_instances']
        for i, (x1, y1, x2, y2) in enumerate(found['bboxes'].double().tolist()):
            item = dict(
                image_id=sample['img_id'], category_id=(18, 1)[found['labels'][i]], score=found['scores'][i].item()
            )
            items.append(dict(item, bbox=[x1, y1, x2 - x1, y2 - y1]))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(ann_file)
        evaluation = COCOeval(coco, coco.loadRes(items), 'bbox')
        evaluation.params.catIds = [18, 1]
        evaluation.params.useCats = int(use_cats)
        if iou_thrs is not None:
            evaluation.params.iouThrs = np.array(iou_thrs)
        evaluation.evaluate()
        evaluation.accumulate()
        if iou_thrs is None:
            evaluation.summarize()
    return evaluation


def test_thresholds(ann_file, content):
    samples = predictions(content, noise=4)
    numbers = evaluate(CocoMetric(ann_file, iou_thrs=[0.5, 0.6], metric_items=['mAP', 'mAP_50', 'mAP_75']), samples)
    values = reference(ann_file, samples, iou_thrs=[0.5, 0.6]).eval['precision'][..., 0, 2]
    assert numbers['coco/bbox_mAP'] == pytest.approx(values[values > -1].mean(), abs=5.1e-5)
    assert numbers['coco/bbox_mAP_75'] == -1  # it was not asked for
    one = evaluate(CocoMetric(ann_file, iou_thrs=0.5), samples)
    assert one['coco/bbox_mAP'] == one['coco/bbox_mAP_50'] == numbers['coco/bbox_mAP_50']


def test_proposals_have_no_classes(ann_file, content):
    samples = predictions(content, noise=3, extra=4)
    for sample in samples:
        sample['pred_instances']['labels'].zero_()
    numbers = evaluate(CocoMetric(ann_file, metric='proposal', proposal_nums=(1, 10, 100)), samples)
    expected = reference(ann_file, samples, use_cats=False).stats
    np.testing.assert_allclose(list(numbers.values()), expected[6:], atol=5.1e-5)
    assert list(numbers)[:3] == ['coco/AR@1', 'coco/AR@10', 'coco/AR@100']


def test_an_image_counts_once(ann_file, content):
    samples = predictions(content, noise=4, extra=3)
    once = evaluate(CocoMetric(ann_file), samples)
    assert evaluate(CocoMetric(ann_file), samples + samples[:2]) == once
    assert evaluate(CocoMetric(ann_file), samples[::-1]) == once
    with pytest.raises(ValueError, match='4 images, but the data set has 5'):
        evaluate(CocoMetric(ann_file), samples[:4] + samples[:1])


def test_a_part_of_the_images(ann_file, content):
    """Objects of images that were not asked for are not missed."""
    assert evaluate(CocoMetric(ann_file), predictions(content)[:2], size=2)['coco/bbox_mAP'] == 1


def test_no_detections_are_nought(ann_file, content, monkeypatch):
    log = []
    monkeypatch.setattr('mmdet.evaluation.coco_metric.print_log', lambda *args: log.append(str(args[0])))
    samples = [prediction(image['id'], [], [], []) for image in content['images']]
    numbers = evaluate(CocoMetric(ann_file, metric=['bbox', 'segm', 'proposal']), samples)
    assert set(numbers.values()) == {0.0} and sum('no detections' in line for line in log) == 3


def test_sizes_that_no_object_has_are_minus_one(content, tmp_path):
    path = tmp_path / 'large.json'
    large = [a for a in content['annotations'] if a['area'] > 96**2]
    path.write_text(json.dumps(dict(content, annotations=large)))
    numbers = evaluate(CocoMetric(str(path)), predictions(dict(content, annotations=large)))
    assert numbers['coco/bbox_mAP_s'] == -1 and numbers['coco/bbox_mAP_l'] == 1


def test_areas_and_crowd_flags_may_be_left_out(content, tmp_path):
    bare = [
        {key: a[key] for key in ('image_id', 'bbox', 'category_id')} for a in content['annotations'] if not a['iscrowd']
    ]
    path = tmp_path / 'bare.json'
    path.write_text(json.dumps(dict(content, annotations=bare)))
    assert evaluate(CocoMetric(str(path)), predictions(content))['coco/bbox_mAP'] == 1


def test_table_of_classes(ann_file, content, monkeypatch):
    log = []
    monkeypatch.setattr('mmdet.evaluation.coco_metric.print_log', lambda *args: log.append(str(args[0])))
    samples = predictions(content)
    for sample in samples:  # no dog is found
        found = sample['pred_instances']
        sample['pred_instances'] = {key: value[found['labels'] == 1] for key, value in found.items()}
    evaluate(CocoMetric(ann_file), samples)
    table = {row.split('|')[1].strip(): row.split('|')[2].strip() for row in log[-1].splitlines() if '|' in row}
    assert table['dog'] == '0.000' and table['person'] == '1.000' and table['mAP'] == '0.500'
    assert {'AR@100', 'AR_l@1000', 'mAP_s'} <= set(table)
    evaluate(CocoMetric(ann_file, classwise=False), samples)
    assert 'person' not in log[-1]


def test_masks_are_kept_encoded(ann_file, content):
    metric = CocoMetric(ann_file, metric='segm')
    metric.process({}, predictions(content)[:1])
    assert len(pickle.dumps(metric.results)) < 5000  # six masks of 160 x 120
    masks = np.random.default_rng(0).random((3, 20, 30)) > 0.5
    assert np.array_equal(coco_mask.decode(encode_mask_results(masks)).transpose(2, 0, 1), masks)


def test_a_missing_file_is_said_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.json'):
        CocoMetric(str(tmp_path / 'none.json'))


def with_objects(content, samples):
    """Samples that bring their objects along, as CocoDataset has them."""
    for sample in samples:
        sample['instances'] = [
            dict(
                bbox=[x, y, x + w, y + h],
                bbox_label=CLASSES.index({18: 'dog', 1: 'person'}[one['category_id']]),
                mask=one['segmentation'],
                ignore_flag=one['iscrowd'],
            )
            for one in content['annotations']
            for x, y, w, h in [one['bbox']]
            if one['image_id'] == sample['img_id']
        ]
    return samples


def test_objects_of_the_samples(ann_file, content, tmp_path):
    samples = with_objects(content, predictions(content, noise=4, extra=3))
    options = dict(metric=['bbox', 'segm', 'proposal_fast'], classwise=True)
    numbers = evaluate(CocoMetric(**options, outfile_prefix=str(tmp_path / 'of')), samples)
    assert numbers == evaluate(CocoMetric(ann_file, **options), samples)
    assert 0 < numbers['coco/bbox_mAP'] < 1
    assert numbers == evaluate(CocoMetric(str(tmp_path / 'of.gt.json'), **options), samples)
    odd = [dict(one, img_id=np.int64(one['img_id']), ori_shape=np.array(SIZE)) for one in samples]
    assert evaluate(CocoMetric(**options, outfile_prefix=str(tmp_path / 'odd')), odd) == numbers
    wrong = dict(samples[0], instances=[dict(samples[0]['instances'][0], bbox_label=2)])
    with pytest.raises(ValueError, match='image 3: an object has the label 2, and the data set 2 classes'):
        evaluate(CocoMetric(), [wrong, *samples[1:]])
    # the next epoch's objects are its own
    metric = CocoMetric(**options)
    assert evaluate(metric, [dict(one, instances=[]) for one in samples])['coco/bbox_mAP'] == -1
    assert evaluate(metric, samples) == numbers
    assert set(numbers) == set(metric.names())
    with pytest.raises(ValueError, match="no ann_file, and the samples come without 'instances'; .* meta_keys"):
        evaluate(CocoMetric(), predictions(content))


def test_masks_of_another_size_than_the_image(content, tmp_path):
    """They count where the detections have the same, as in mmdetection; pycocotools finds no overlap where not."""
    small = np.zeros((10, 12), np.uint8)
    small[2:5, 3:7] = 1
    rle = encode_mask_results(small[None])[0]
    changed = dict(content, annotations=[dict(one, segmentation=rle) for one in content['annotations']])
    path = tmp_path / 'small.json'
    path.write_text(json.dumps(changed))
    samples = predictions(content)
    assert evaluate(CocoMetric(str(path)), samples)['coco/bbox_mAP'] == 1
    with pytest.raises(ValueError, match=r'image 3: the mask of an object has the size \[10, 12\] .* \[120, 160\]'):
        evaluate(CocoMetric(str(path), metric='segm'), samples)
    for sample in samples:
        found = sample['pred_instances']
        found['masks'] = torch.from_numpy(np.repeat(small[None], len(found['labels']), 0))
    assert evaluate(CocoMetric(str(path), metric='segm'), samples)['coco/segm_mAP'] == 1


def test_objects_of_the_samples_as_in_mmdetection():
    """The numbers, and what is written, of its 3.5.1 for the same sample."""
    mask = np.zeros((40, 50), np.uint8)
    mask[5:15, 10:30] = 1
    instances = [
        dict(bbox_label=0, bbox=[10, 5, 30, 15], ignore_flag=0, mask=coco_mask.encode(np.asfortranarray(mask))),
        dict(bbox_label=1, bbox=[0, 0, 20, 20], ignore_flag=0, mask=[[0, 0, 20, 0, 20, 20, 0, 20]]),
        dict(bbox_label=1, bbox=[30, 20, 45, 38], ignore_flag=1, mask=[[30, 20, 45, 20, 45, 38, 30, 38]]),
    ]
    found = dict(
        bboxes=torch.tensor([[10.0, 5, 30, 15], [0, 0, 19, 21]]),
        scores=torch.tensor([0.9, 0.8]),
        labels=torch.tensor([0, 1]),
        masks=torch.from_numpy(np.stack([mask, np.eye(40, 50, dtype=np.uint8)])),
    )

    class Own(CocoMetric):
        def compute_metrics(self, results):
            self.truths, self.found = zip(*results)
            return super().compute_metrics(results)

    metric = Own(metric=['bbox', 'segm'], classwise=True)
    metric.dataset_meta = dict(classes=['car', 'bike'])
    metric.process({}, [dict(img_id=3, ori_shape=(40, 50), instances=instances, pred_instances=found)])
    numbers = metric.evaluate(1)
    assert metric.truths[0]['img_id'] == metric.found[0]['img_id'] == 3
    assert {key: metric.truths[0][key] for key in ('width', 'height')} == dict(width=50, height=40)
    assert len(metric.truths[0]['anns']) == 3
    rest = {f'coco/{kind}_mAP_{size}': -1 for kind in ('bbox', 'segm') for size in 'ml'}
    assert numbers == rest | {
        'coco/car_precision': 1.0,
        'coco/bike_precision': 0.0,
        'coco/bbox_mAP': 0.95,
        'coco/bbox_mAP_50': 1.0,
        'coco/bbox_mAP_75': 1.0,
        'coco/bbox_mAP_s': 0.95,
        'coco/segm_mAP': 0.5,
        'coco/segm_mAP_50': 0.5,
        'coco/segm_mAP_75': 0.5,
        'coco/segm_mAP_s': 0.5,
    }


def test_dump(content, tmp_path):
    path = tmp_path / 'results.pkl'
    dump = DumpDetResults(out_file_path=str(path))
    samples = predictions(content)
    dump.process({}, samples)
    dump.evaluate(5)
    dumped = pickle.loads(path.read_bytes())
    assert [item['img_id'] for item in dumped] == [3, 5, 7, 11, 13]
    drawn = coco_mask.decode(dumped[0]['pred_instances']['masks'])
    assert np.array_equal(drawn.transpose(2, 0, 1), samples[0]['pred_instances']['masks'].numpy())
