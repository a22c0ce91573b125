"""CocoMetric against pycocotools' own summary, and its corners."""

import contextlib
import io
import json

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet.evaluation import CocoMetric

CLASSES = ('cat', 'dog')


def rectangle(box, height=100, width=120):
    mask = np.zeros((height, width), dtype=np.uint8)
    x1, y1, x2, y2 = (int(v) for v in box)
    mask[y1:y2, x1:x2] = 1
    return mask


@pytest.fixture
def truth(tmp_path):
    """A file of 6 images with boxes of all sizes and sparse category ids."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(6):
        images.append(dict(id=10 + 3 * i, file_name='x', height=100, width=120))
        for _ in range(5):
            x, y = rng.integers(0, 50, 2)
            w, h = rng.integers(5, 60, 2)
            h = min(h, 100 - y)
            rle = coco_mask.encode(np.asfortranarray(rectangle((x, y, x + w, y + h))))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=10 + 3 * i,
                    iscrowd=0,
                    area=int(w * h),
                    category_id=int(rng.choice([5, 77])),
                    bbox=[int(v) for v in (x, y, w, h)],
                    segmentation=dict(size=[100, 120], counts=rle['counts'].decode()),
                )
            )
    path = tmp_path / 'truth.json'
    path.write_text(
        json.dumps(
            dict(images=images, annotations=annotations, categories=[dict(id=77, name='dog'), dict(id=5, name='cat')])
        )
    )
    return path, json.loads(path.read_text())


def detections(data, noise=0.0, seed=0, keep=1.0):
    """Samples as the evaluator gives them: the truth, moved by ``noise`` pixels."""
    rng = np.random.default_rng(seed)
    samples = []
    for image in data['images']:
        boxes, labels = [], []
        for a in data['annotations']:
            if a['image_id'] == image['id'] and rng.random() < keep:
                x, y, w, h = a['bbox']
                boxes.append(np.round(np.array([x, y, x + w, y + h]) + rng.normal(0, noise, 4)).clip(0))
                labels.append([5, 77].index(a['category_id']))
        boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        masks = np.array([rectangle(box) for box in boxes], dtype=bool).reshape(-1, 100, 120)
        samples.append(
            dict(
                img_id=image['id'],
                pred_instances=dict(
                    bboxes=torch.from_numpy(boxes),
                    scores=torch.from_numpy(rng.random(len(boxes)).astype(np.float32)),
                    labels=torch.tensor(labels, dtype=torch.long),
                    masks=torch.from_numpy(masks),
                ),
            )
        )
    return samples


def metric(path, **kwargs):
    out = CocoMetric(ann_file=str(path), **kwargs)
    out.dataset_meta = dict(classes=CLASSES)
    return out


def run(metric, samples):
    for sample in samples:
        metric.process({}, [sample])
    return metric.evaluate(len({sample['img_id'] for sample in samples}))


@pytest.mark.parametrize('noise', [0.0, 2.0, 6.0])
def test_equals_pycocotools(truth, noise):
    path, data = truth
    samples = detections(data, noise, keep=0.8)
    got = run(
        metric(
            path,
            metric=['bbox', 'segm'],
            proposal_nums=(1, 10, 100),
            metric_items=[
                'mAP',
                'mAP_50',
                'mAP_75',
                'mAP_s',
                'mAP_m',
                'mAP_l',
                'AR@1',
                'AR@10',
                'AR@100',
                'AR_s@100',
                'AR_m@100',
                'AR_l@100',
            ],
        ),
        samples,
    )
    items = [
        dict(
            image_id=s['img_id'],
            category_id=[5, 77][label],
            score=float(score),
            bbox=[float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])],
            segmentation=coco_mask.encode(np.asfortranarray(rectangle(b))),
        )
        for s in samples
        for b, score, label in zip(*(s['pred_instances'][k] for k in ('bboxes', 'scores', 'labels')))
    ]
    for kind in ('bbox', 'segm'):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
            keys = ('bbox',) if kind == 'bbox' else ('segmentation',)
            own = coco.loadRes(
                [{k: v for k, v in item.items() if k in keys + ('image_id', 'category_id', 'score')} for item in items]
            )
            evaluation = COCOeval(coco, own, kind)
            evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
        np.testing.assert_allclose(
            [v for k, v in got.items() if k.startswith(f'coco/{kind}')], evaluation.stats, atol=5.1e-5
        )


def test_perfect_detections_have_ap_one(truth):
    path, data = truth
    got = run(metric(path, metric=['bbox', 'segm']), detections(data))
    assert got['coco/bbox_mAP'] == got['coco/segm_mAP'] == 1 and len(got) == 12
    got = run(metric(path, metric='proposal'), detections(data))
    assert got['coco/AR@100'] == 1


def test_duplicates_count_once_and_missing_images_are_an_error(truth):
    path, data = truth
    samples = detections(data, 3.0)
    once, twice = run(metric(path), samples), metric(path)
    for sample in samples + samples[:2]:
        twice.process({}, [sample])
    assert twice.evaluate(6) == once
    partial = metric(path)
    partial.process({}, samples[:4])
    with pytest.raises(ValueError, match='4 images.*6'):
        partial.evaluate(6)


def test_no_detections(truth):
    path, data = truth
    got = run(metric(path, metric=['bbox', 'segm']), detections(data, keep=0.0))
    assert got['coco/bbox_mAP'] == got['coco/segm_mAP'] == 0


def test_maxdets_reach_ap(truth):
    path, data = truth
    few = run(metric(path, proposal_nums=(1, 2)), detections(data))
    assert few['coco/bbox_mAP'] < 0.8
    assert run(metric(path, proposal_nums=(1, 200)), detections(data))['coco/bbox_mAP'] == 1


def test_format_only_writes_coco_results(truth, tmp_path):
    path, data = truth
    prefix = tmp_path / 'deep' / 'results'
    assert (
        run(metric(path, metric=['bbox', 'segm'], format_only=True, outfile_prefix=str(prefix)), detections(data)) == {}
    )
    boxes = json.loads((tmp_path / 'deep' / 'results.bbox.json').read_text())
    assert len(boxes) == len(data['annotations']) and {b['category_id'] for b in boxes} == {5, 77}
    first = sorted(a['bbox'] for a in data['annotations'] if a['image_id'] == 10)
    assert sorted(b['bbox'] for b in boxes if b['image_id'] == 10) == first
    masks = json.loads((tmp_path / 'deep' / 'results.segm.json').read_text())
    assert isinstance(masks[0]['segmentation']['counts'], str)


def test_tables_are_printed(truth, monkeypatch):
    path, data = truth
    lines = []
    monkeypatch.setattr('mmdet.evaluation.coco_metric.print_log', lambda text, *_: lines.append(text))
    run(metric(path), detections(data))
    text = '\n'.join(lines)
    for word in ('mAP_50', 'AR@1000', 'AR_l@1000', 'category', 'cat', 'dog', '1.000'):
        assert word in text
    lines.clear()
    run(metric(path, classwise=False), detections(data))
    assert 'category' not in '\n'.join(lines)


def test_bad_input(truth):
    path, data = truth
    with pytest.raises(ValueError, match="'mask'"):
        CocoMetric(str(path), metric='mask')
    with pytest.raises(ValueError, match='outfile_prefix'):
        CocoMetric(str(path), format_only=True)
    with pytest.raises(ValueError, match='metric item "AP" is not supported; there are .*AR@100'):
        metric(path, metric_items=['AP'])
    with pytest.raises(ValueError, match="truth.json has none of the data set's classes 'cow'; its categories"):
        metric(path).dataset_meta = dict(classes=('cow',))
    strange = detections(data)
    strange[0]['img_id'] = 12345
    with pytest.raises(ValueError, match='truth.json has no image with the id 12345, and 0 more'):
        run(metric(path), strange)
    for text in ('[1', '{"info": "Caf\xe9", "images": [], "annotations": [], "categories": []}'):
        other = path.parent / 'other.json'
        other.write_bytes(text.encode('latin-1'))
        with pytest.raises(ValueError, match='ann_file .*other.json: not JSON'):  # before the first epoch
            CocoMetric(str(other))
    samples = detections(data)
    samples[0]['pred_instances'].pop('masks')
    with pytest.raises(ValueError, match='segm.*masks'):
        metric(path, metric='segm').process({}, samples[:1])
