"""Recall of proposals: by hand, and mmdetection's answers."""

import json

import numpy as np
import pytest
import torch

from mmdet.evaluation import CocoMetric
from mmdet.evaluation.recall import average_recalls

THRESHOLDS = np.arange(0.5, 1, 0.05)


def boxes(seed, number):
    rng = np.random.RandomState(seed)
    corner = rng.rand(number, 2) * 60
    return np.concatenate([corner, corner + 10 + rng.rand(number, 2) * 40], 1).astype(np.float32)


def test_by_hand():
    objects = [np.array([[0, 0, 10, 10], [20, 0, 30, 10]]), np.zeros((0, 4))]
    proposals = [np.array([[0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 6]]), boxes(0, 5)]
    # 1.0 for the first object; the second one is at 0.6 in the third proposal
    assert average_recalls(objects, proposals, (1, 3), np.array([0.5, 0.7])) == pytest.approx([0.5, 0.75])
    assert np.isnan(average_recalls([np.zeros((0, 4))], [boxes(0, 5)], (1,), THRESHOLDS)[0])


def test_equals_the_original():
    """Recorded: mmdetection 3.5.1, ``eval_recalls(..., (5, 20, 100), THRESHOLDS).mean(1)`` of the same boxes."""
    objects = [boxes(i, 6) for i in range(4)]
    proposals = [np.concatenate([boxes(10 + i, 30), objects[i] + 1.5, boxes(20 + i, 30)]) for i in range(4)]
    assert average_recalls(objects, proposals, (5, 20, 100), THRESHOLDS) == pytest.approx(
        [0.025, 0.0458333, 0.6166667], abs=1e-6
    )


def test_as_a_metric(tmp_path):
    images = [dict(id=1, file_name='a.jpg', height=100, width=100)]
    own = [dict(id=1, image_id=1, category_id=1, bbox=[10, 10, 20, 20], area=400, iscrowd=0)]
    crowd = [dict(id=2, image_id=1, category_id=1, bbox=[50, 50, 40, 40], area=1600, iscrowd=1)]
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(dict(images=images, annotations=own + crowd, categories=[dict(id=1, name='cat')])))
    metric = CocoMetric(str(path), metric='proposal_fast', proposal_nums=(1, 2))
    metric.dataset_meta = dict(classes=('cat',))
    found = dict(
        bboxes=torch.tensor([[0.0, 0, 9, 9], [10, 10, 30, 30]]), scores=torch.ones(2), labels=torch.zeros(2).long()
    )
    metric.process({}, [dict(img_id=1, pred_instances=found)])
    assert metric.evaluate(1) == {'coco/AR@1': 0, 'coco/AR@2': 1} and metric.names() == ['coco/AR@1', 'coco/AR@2']
