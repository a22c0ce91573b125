"""COCO's scores by hotcoco and by this package's way to pycocotools, against pycocotools by itself."""

import contextlib
import io
import json
import time

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet.datasets.coco_table import make_table, read_table
from mmdet.evaluation import scoring
from mmdet.evaluation.scoring import Found, Truth
from mmdet.evaluation.summary import of_class, summarize

SIDES = 60, 80


def star(box, generator):
    x, y, width, height = box
    angle = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    reach = generator.uniform(0.5, 1, 9) / 2
    return np.stack([x + width * (0.5 + reach * np.cos(angle)), y + height * (0.5 + reach * np.sin(angle))], 1).ravel()


def boxes_of(number, generator):
    size = generator.choice([4.0, 20, 50], (number, 2)) * generator.uniform(0.5, 1, (number, 2))
    return np.concatenate([generator.uniform(0, 1, (number, 2)) * (np.array(SIDES[::-1]) - size), size], 1).round(2)


def made_up(seed):
    """An annotation file, and detections in it: crowds, ties, empty images and classes, ids that are texts."""
    generator = np.random.default_rng(seed)
    text = seed % 3 == 0
    ids = [f'image {i}' if text else 7 * i for i in generator.permutation(9).tolist()]
    categories = [dict(id=key, name=f'c{key}') for key in generator.permutation([3, 40, 11, 90]).tolist()]
    objects = []
    for image in ids[:-1]:
        for box in boxes_of(generator.integers(0, 6), generator):
            crowd = int(generator.random() < 0.15)
            mask = [star(box, generator).tolist()]
            if crowd or generator.random() < 0.2:
                rle = coco_mask.merge(coco_mask.frPyObjects(mask, *SIDES))
                if crowd:
                    flat = coco_mask.decode(rle).ravel(order='F')
                    ends = np.flatnonzero(np.diff(flat)) + 1
                    counts = np.diff([0, *ends, len(flat)]).tolist()
                    mask = dict(size=list(SIDES), counts=counts if not flat[0] else [0, *counts])
                else:
                    mask = dict(rle, counts=rle['counts'].decode())
            objects.append(
                dict(
                    id=len(objects) + 1,
                    image_id=image,
                    category_id=int(generator.choice([3, 40, 11])),
                    bbox=box.tolist(),
                    area=float(box[2] * box[3] * generator.choice([0.7, 1.0])),
                    iscrowd=crowd,
                    segmentation=mask,
                )
            )
    data = dict(
        images=[dict(id=key, file_name=f'{i}.jpg', height=SIDES[0], width=SIDES[1]) for i, key in enumerate(ids)],
        categories=categories,
        annotations=objects,
    )
    items = []
    for image in sorted(ids):
        own = [one for one in objects if one['image_id'] == image]
        for i, box in enumerate(boxes_of(generator.integers(0, 15), generator)):
            label = int(generator.choice([3, 40, 11, 90]))
            if own and i % 2:
                one = own[generator.integers(len(own))]
                box, label = np.array(one['bbox']) + generator.normal(0, 1.5, 4), one['category_id']
                box[2:] = box[2:].clip(1)
            mask = coco_mask.merge(coco_mask.frPyObjects([star(box, generator).tolist()], *SIDES))
            score = float(generator.choice([0.25, 0.5, generator.random()]))
            items.append(dict(image_id=image, category_id=label, bbox=box.tolist(), score=score, segmentation=mask))
    return data, items


def as_found(truth, items):
    keys = [key for key, _ in truth.table.categories]
    return Found(
        np.array([truth.place[one['image_id']] for one in items], dtype=np.int64),
        np.array([keys.index(one['category_id']) for one in items], dtype=np.int64),
        np.array([one['bbox'] for one in items], dtype=float).reshape(-1, 4),
        np.array([one['score'] for one in items], dtype=float),
        [one['segmentation'] for one in items],
    )


def reference(data, items, kind, max_dets, iou_thrs, use_cats):
    """pycocotools' own arrays, and its twelve numbers."""
    coco = COCO()
    coco.dataset = json.loads(json.dumps(data))
    own = [
        {key: value for key, value in one.items() if key != ('segmentation', 'bbox')[kind == 'segm']} for one in items
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(own) if own else COCO(), kind)
        evaluation.params.maxDets, evaluation.params.useCats = list(max_dets), int(use_cats)
        if iou_thrs:
            evaluation.params.iouThrs = np.array(iou_thrs)
        evaluation.evaluate()
        evaluation.accumulate()
        if not iou_thrs and max_dets == (1, 10, 100):
            evaluation.summarize()
    return evaluation


@pytest.fixture(params=['hotcoco', 'pycocotools'])
def way(request, monkeypatch):
    if request.param == 'pycocotools':
        monkeypatch.setattr(scoring, '_hotcoco', lambda: None)
    else:
        pytest.importorskip('hotcoco')
    return request.param


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
@pytest.mark.parametrize('options', [{}, dict(iou_thrs=(0.3, 0.55)), dict(use_cats=False), dict(max_dets=(2, 5))])
def test_scores_are_pycocotools(way, kind, options):
    options = dict(dict(max_dets=(1, 10, 100), iou_thrs=None, use_cats=True), **options)
    for seed in range(20):
        data, items = made_up(seed)
        want = reference(data, items, kind, **options)
        truth = Truth(make_table('made up', data))
        keys = [key for key, _ in truth.table.categories]
        places = sorted(range(len(keys)), key=lambda i: keys[i])  # pycocotools' order
        found = as_found(truth, items)
        scores = truth.score(found, kind, np.arange(len(truth.images)), places, **options)
        np.testing.assert_allclose(scores.precision, want.eval['precision'], rtol=0, atol=1e-12)
        np.testing.assert_allclose(scores.recall, want.eval['recall'], rtol=0, atol=1e-12)
        if len(want.stats):
            np.testing.assert_allclose(list(summarize(scores, (1, 10, 100)).values()), want.stats, rtol=0, atol=1e-12)
        turned = truth.score(found, kind, np.arange(len(truth.images)), places[::-1], **options)
        if options['use_cats']:
            np.testing.assert_array_equal(of_class(turned, 0).precision[:, :, 0], scores.precision[:, :, -1])
        again = truth.score(found, kind, np.arange(len(truth.images)), places, **options)
        np.testing.assert_array_equal(again.precision, scores.precision)  # nothing is changed by the first time


def test_some_images_and_some_classes(way):
    """What is left out counts neither as an object nor as a detection."""
    data, items = made_up(1)
    truth = Truth(make_table('made up', data))
    keys = [key for key, _ in truth.table.categories]
    chosen = truth.images[1::2]
    part = dict(data, images=[one for one in data['images'] if one['id'] in chosen])
    part['annotations'] = [
        one for one in data['annotations'] if one['image_id'] in chosen and one['category_id'] in (11, 3)
    ]
    part['categories'] = [one for one in data['categories'] if one['id'] in (11, 3)]
    own = [one for one in items if one['image_id'] in chosen and one['category_id'] in (11, 3)]
    want = reference(part, own, 'bbox', (1, 10, 100), None, True)
    places = np.array([truth.place[key] for key in chosen])
    scores = truth.score(as_found(truth, items), 'bbox', places, [keys.index(3), keys.index(11)], (1, 10, 100))
    np.testing.assert_allclose(scores.precision, want.eval['precision'], rtol=0, atol=1e-12)


def test_objects_of_no_category_never_count(way):
    data, items = made_up(2)
    data['annotations'][0]['category_id'] = 555
    for use_cats in (True, False):
        want = reference(data, items, 'bbox', (1, 10, 100), None, use_cats)
        truth = Truth(make_table('made up', data))
        keys = [key for key, _ in truth.table.categories]
        places = sorted(range(len(keys)), key=lambda i: keys[i])
        scores = truth.score(
            as_found(truth, items), 'bbox', np.arange(len(truth.images)), places, (1, 10, 100), use_cats=use_cats
        )
        np.testing.assert_allclose(scores.recall, want.eval['recall'], rtol=0, atol=1e-12)


def test_an_object_without_a_mask_is_a_region_that_does_not_count(way):
    data, items = made_up(4)
    without = data['annotations'][0]
    del without['segmentation']
    truth = Truth(make_table('made up', data))
    assert truth.without_mask == 1
    x, y, width, height = without['bbox']
    without['segmentation'] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    without['iscrowd'] = 1
    want = reference(data, items, 'segm', (1, 10, 100), None, True)
    keys = [key for key, _ in truth.table.categories]
    places = sorted(range(len(keys)), key=lambda i: keys[i])
    scores = truth.score(as_found(truth, items), 'segm', np.arange(len(truth.images)), places, (1, 10, 100))
    np.testing.assert_allclose(scores.precision, want.eval['precision'], rtol=0, atol=1e-12)


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_no_detections_at_all(way, kind):
    data, _ = made_up(5)
    truth = Truth(make_table('made up', data))
    scores = truth.score(as_found(truth, []), kind, np.arange(len(truth.images)), [0, 1, 2, 3], (1, 10, 100))
    assert scores.precision.max() == scores.recall.max() == 0 and scores.precision.min() == -1


def test_without_hotcoco_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setitem(__import__('sys').modules, 'hotcoco', None)
    scoring._hotcoco.cache_clear()
    said = []
    monkeypatch.setattr(scoring, 'print_log', lambda text, *args: said.append(text))
    assert scoring._hotcoco() is None and 'pycocotools, which is slow' in said[0]
    scoring._hotcoco.cache_clear()


def test_it_takes_a_fraction_of_pycocotools_time(tmp_path):
    """At a tenth of COCO's val2017: the target is a twentieth, of boxes; here the bound is far above the noise."""
    pytest.importorskip('hotcoco')
    from mmdet.analysis.benchmark import inputs

    inputs.detections(tmp_path, 100)
    data, items = (json.loads((tmp_path / name).read_text()) for name in ('val.json', 'found.json'))
    truth = Truth(read_table(str(tmp_path / 'val.json')))
    found = as_found(truth, items)
    options = (np.arange(len(truth.images)), list(range(80)), (1, 10, 100))
    truth.score(found, 'bbox', *options)
    start = time.process_time()
    scores = truth.score(found, 'bbox', *options)
    middle = time.process_time()
    want = reference(data, items, 'bbox', (1, 10, 100), None, True)
    assert middle - start < 0.3 * (time.process_time() - middle)
    np.testing.assert_allclose(scores.precision, want.eval['precision'], rtol=0, atol=1e-12)
