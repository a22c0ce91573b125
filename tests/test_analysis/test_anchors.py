"""mmdet analyze anchors: overlaps beside those of the anchors themselves, and anchors that are found again."""

import json

import numpy as np
import pytest
import torch

from mmdet.analysis.anchors import _scale, best_overlaps, fit, main
from mmdet.config import load_config
from mmdet.datasets.transforms import Resize
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.run.ending import run_main
from mmdet.structures.bbox import bbox_overlaps

BASES = np.array([4.0, 8, 16])


def test_overlaps_are_those_of_the_anchors():
    sizes = np.random.default_rng(0).uniform(3, 300, (200, 2))
    generator = AnchorGenerator(strides=[4, 8, 16], scales=[2, 8], ratios=[0.5, 1.0, 3.0])
    anchors = torch.cat(generator.base_anchors).double()
    boxes = torch.from_numpy(np.concatenate([-sizes / 2, sizes / 2], 1))
    expected = bbox_overlaps(boxes, anchors).max(1).values
    found = best_overlaps(sizes, np.array([2.0, 8]), np.array([0.5, 1.0, 3.0]), BASES)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_anchors_that_made_the_boxes_are_found():
    rng = np.random.default_rng(1)
    scales, ratios = np.array([3.0, 11.0]), np.array([0.4, 2.2])
    side, ratio = rng.choice(BASES, 3000) * rng.choice(scales, 3000), rng.choice(ratios, 3000)
    sizes = np.stack([side / np.sqrt(ratio), side * np.sqrt(ratio)], 1) * rng.uniform(0.97, 1.03, (3000, 2))
    found = fit(sizes, (2, 2), BASES, 200, 0)
    assert best_overlaps(sizes, *found, BASES).mean() > 0.96
    np.testing.assert_allclose(found[1], ratios, rtol=0.05)


@pytest.mark.parametrize(
    'step, scale',
    [
        (dict(type='Resize', scale=(1333, 800), keep_ratio=True), ((1333, 800), True)),
        (dict(type='mmdet.Resize', scale=(300, 200)), ((300, 200), False)),
        (dict(type=Resize, scale=(300, 200)), ((300, 200), False)),
        (
            dict(type='RandomChoiceResize', scales=[(1333, s) for s in (800, 640, 672)], keep_ratio=True),
            ((1333, 672), True),
        ),
        (dict(type='RandomResize', scale=[(1333, 640), (1333, 800)], keep_ratio=True), ((1333, 720), True)),
        (dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.5, 2.0), keep_ratio=True), ((1280, 1280), True)),
        (dict(type='Resize', scale_factor=1.0), (None, True)),
        (dict(type='RandomFlip', prob=0.5), (None, True)),
    ],
)
def test_scale_of_the_pipeline(step, scale):
    assert _scale([dict(type='LoadImageFromFile'), step]) == scale


def test_command(tiny_config, tmp_path, capsys):
    main([str(tiny_config), '--iters', '20', '--output-dir', str(tmp_path / 'new')])
    said = capsys.readouterr().out
    results = json.loads((tmp_path / 'new' / 'anchor_optimize_result.json').read_text())
    assert results['fitted']['mean_iou'] >= results['config']['mean_iou'] and 'above 0.7' in said
    # what it says to add is what a config takes
    option = next(line for line in said.splitlines() if line.startswith('--cfg-options'))
    words = [word.replace('"', '').replace(', ', ',') for word in option.split(' model')[1:]]
    cfg = load_config(str(tiny_config))
    cfg.merge_from_dict({f'model{key}': json.loads(value) for key, value in (word.split('=') for word in words)})
    assert cfg.model.rpn_head.anchor_generator.scales == results['fitted']['scales']
    assert cfg.model.rpn_head.anchor_generator.ratios == results['fitted']['ratios']


def test_messages(tiny_config, capsys):
    assert run_main(lambda: main([str(tiny_config), '--min-size', '10000'])) == 1
    assert 'train_dataloader.dataset: no box of 10000 pixels or more a side' in capsys.readouterr().err
