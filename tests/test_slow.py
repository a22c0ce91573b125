"""Trainings that must reach an AP: minutes each, tools/run_tests.sh -m slow."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COCO = ROOT.parent / 'shared' / 'data' / 'coco100'


def train(config, *options):
    done = subprocess.run(
        [sys.executable, 'tools/train.py', config, *map(str, options), 'randomness.seed=0'],
        cwd=ROOT,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return {key: float(value) for key, value in re.findall(r'coco/(\w+): (-?[\d.]+)', done.stdout)}


@pytest.mark.slow
@pytest.mark.parametrize('norm', ['bn', 'gn', 'cbn'])
def test_shapes_are_learned(norm, tmp_path):
    data = tmp_path / 'shapes'
    subprocess.run(
        [sys.executable, 'tools/dataset_converters/make_shapes.py', '--out', str(data)],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        check=True,
    )
    options = [f'{part}_dataloader.dataset.data_root={data}' for part in ('train', 'val', 'test')]
    options += [f'{part}_evaluator.ann_file={data}/annotations/val.json' for part in ('val', 'test')]
    ap = train(
        f'configs/shapes/mask-rcnn_r18_fpn_{norm}.py', '--work-dir', tmp_path / 'work', '--cfg-options', *options
    )
    assert ap['segm_mAP_50'] >= 0.7


@pytest.mark.slow
@pytest.mark.skipif(not COCO.exists(), reason='the COCO images are not beside the checkout')
def test_four_coco_images_are_learned_by_heart(tmp_path):
    options = [
        f'train_dataloader.dataset.dataset.data_root={COCO}',
        f'val_dataloader.dataset.data_root={COCO}',
        f'val_evaluator.ann_file={COCO}/annotations/instances_train2017.json',
        'test_dataloader=None',
        'test_evaluator=None',
        'test_cfg=None',
    ]
    ap = train('configs/overfit/mask-rcnn_r18_fpn_cbn_coco4.py', '--work-dir', tmp_path, '--cfg-options', *options)
    assert ap['bbox_mAP'] >= 0.8 and ap['segm_mAP'] >= 0.6
