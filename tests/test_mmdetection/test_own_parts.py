"""demo/own_config.py: a config of mmdetection with a head, transform, data set, hook and metric of one's own."""

import json
import shutil
import subprocess
import sys

from conftest import ROOT

SMALL = ['model.backbone.base_channels=8', 'model.neck.in_channels=[8,16,32,64]', 'model.test_cfg.rcnn.score_thr=0.0']
SMALL += [f'{part}_dataloader.{key}' for part in ('train', 'val') for key in ('num_workers=0', 'persistent_workers=0')]
SMALL += ['default_hooks.logger.interval=1', 'randomness.seed=0']


def train(folder, work_dir, *options):
    """What a training says, and what it logs."""
    words = [ROOT / 'tools/train.py', 'demo/own_config.py', '--work-dir', work_dir, '--cfg-options', *SMALL, *options]
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout
    [path] = (folder / work_dir).glob('*/vis_data/scalars.json')
    return done.stdout, [json.loads(line) for line in path.open()]


def test_parts_of_ones_own(tiny_shapes, tmp_path):
    shutil.copytree(tiny_shapes, tmp_path / 'data/shapes')
    (tmp_path / 'demo').mkdir()
    for name in ('own_parts.py', 'own_config.py'):
        shutil.copy(ROOT / 'demo' / name, tmp_path / 'demo')
    path = tmp_path / 'data/shapes/annotations/train.json'
    data = json.loads(path.read_text())
    for i, image in enumerate(data['images']):
        image['camera'] = f'c{i % 2}'
    x, y, width, height = data['annotations'][0]['bbox']
    data['annotations'][0]['bbox'] = [x, y, width, 3]  # thin
    path.write_text(json.dumps(data))
    said, log = train(tmp_path, 'work')
    assert "cameras: {'c0': 3, 'c1': 3}" in said
    assert log[-1]['coco/found'] > 1 and 0 <= log[-1]['coco/bbox_mAP'] <= 1
    assert (tmp_path / 'work/best_coco_bbox_mAP_epoch_1.pth').is_file()
    # the head's own loss: a box counts twice where its region is small
    _, plain = train(tmp_path, 'plain', 'model.roi_head.bbox_head.small=0')
    assert log[0]['loss_cls'] == plain[0]['loss_cls'] and log[0]['loss_bbox'] > plain[0]['loss_bbox'] > 0
