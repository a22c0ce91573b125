"""What a long training and a large annotation file take of memory and time.

pytest -m slow tests/test_tools/test_memory.py    # on a quiet machine
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not os.path.exists('/proc/self/smaps_rollup'), reason='needs Linux')]

# Writes the iteration, the seconds since START, and the memory in KiB of the trainer (now, most) and of its workers.
METER = """
import json, os, re, time
from pathlib import Path
from mmengine.hooks import Hook
from mmdet.registry import HOOKS

def kib(process, key, file='status'):
    return int(re.search(key + r':\\s+(\\d+)', Path(f'/proc/{process}/{file}').read_text())[1])

@HOOKS.register_module()
class Meter(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter % 20 == 0:
            children = Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()
            with open(os.environ['METER'], 'a') as file:
                print(json.dumps(dict(
                    iter=runner.iter, seconds=time.time() - float(os.environ['START']),
                    trainer=kib('self', 'VmRSS'), most=kib('self', 'VmHWM'),
                    workers=[kib(child, 'Private_Dirty', 'smaps_rollup') for child in children])), file=file)
"""
LONG = """
_base_ = '{base}'
custom_imports = dict(imports=['meter'], allow_failed_imports=False)
custom_hooks = [dict(type='Meter')]
_data = dict(type='CocoDataset', data_root='{data}', ann_file='annotations/train.json', data_prefix=dict(img='train/'),
             metainfo=dict(classes=('circle', 'square', 'triangle')), pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomChoiceResize', scales=[(64, 64), (80, 80), (96, 128), (128, 128), (160, 160)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')])
train_dataloader = dict(num_workers=2, persistent_workers=False, dataset=dict(
    _delete_=True, type='RepeatDataset', times={times}, dataset=_data))
train_cfg = dict(max_epochs={epochs}, val_interval=10)
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=10))
param_scheduler = []
"""
LARGE = """
_base_ = ['{root}/configs/_base_/models/mask-rcnn_r18_fpn_small.py', '{root}/configs/_base_/datasets/coco_instance.py',
          '{root}/configs/_base_/default_runtime.py']
custom_imports = dict(imports=['meter'], allow_failed_imports=False)
custom_hooks = [dict(type='Meter')]
classes = tuple(f'c{{i}}' for i in range(80))
data_root = '{data}/'
train_dataloader = dict(dataset=dict(
    data_root=data_root, metainfo=dict(classes=classes), ann_file='train.json', data_prefix=dict(img=''), pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='Resize', scale=(320, 240), keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs')]))
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=1000)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.001))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1000))
"""


def train(folder, config, **options):
    (folder / 'meter.py').write_text(METER)
    (folder / 'config.py').write_text(config.format(**options))
    meter = folder / f'meter{time.time()}.txt'
    done = subprocess.run(
        [sys.executable, 'tools/train.py', str(folder / 'config.py'), '--work-dir', str(folder / 'work')],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': f'{ROOT}:{folder}', 'METER': str(meter), 'START': str(time.time())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return [json.loads(line) for line in meter.read_text().splitlines()]


def test_two_thousand_iterations(tiny_config, tiny_shapes, tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    seen = train(tmp_path, LONG, base=tiny_config, data=tiny_shapes, times=16, epochs=42)
    assert seen[-1]['iter'] >= 2000 and len({tuple(one['workers']) for one in seen}) > 10
    early = [one for one in seen if 500 <= one['iter'] < 1000]
    late = [one for one in seen if 1500 <= one['iter'] < 2000]
    numbers = {}
    for name, value in (('trainer', lambda one: one['trainer']), ('workers', lambda one: np.mean(one['workers']))):
        before, after = (np.median([value(one) for one in some]) for some in (early, late))
        numbers[name] = before, after
        assert after < before * 1.02, numbers
    print(numbers)


def write_large(path, images=118000, objects=860000):
    """A file like instances_train2017.json; ids, images and classes at random, outlines from a thousand."""
    rng = random.Random(0)
    outlines = []
    for _ in range(1000):
        points = rng.choice((8, 16, 20, 24, 26, 30, 36))
        x, y = rng.uniform(0, 500), rng.uniform(0, 400)
        outline = [round(start + rng.uniform(0, size), 2) for _ in range(points) for start, size in ((x, 100), (y, 60))]
        box = [round(x, 2), round(y, 2), 100.0, 60.0]
        outlines.append(f'"segmentation": [{outline}], "area": 3123.45675, "iscrowd": 0, "bbox": {box}')
    with open(path, 'w') as file:
        file.write('{"info": {}, "images": [')
        file.writelines(
            f'{", " if i else ""}{{"license": 3, "file_name": "one.jpg", "coco_url": '
            f'"http://images.example.org/train2017/{i:012d}.jpg", "height": 480, "width": 640, '
            f'"date_captured": "2013-11-14 11:18:45", "id": {i}}}'
            for i in range(images)
        )
        file.write('], "annotations": [')
        file.writelines(
            f'{", " if i else ""}{{{outlines[rng.randrange(1000)]}, "image_id": {rng.randrange(images)}, '
            f'"category_id": {rng.randrange(80)}, "id": {i}}}'
            for i in range(objects)
        )
        file.write('], "categories": ' + json.dumps([dict(id=i, name=f'c{i}') for i in range(80)]) + '}')


def test_a_file_of_the_size_of_train2017(tmp_path):
    cv2.imwrite(str(tmp_path / 'one.jpg'), np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8))
    try:
        write_large(tmp_path / 'train.json', images=10, objects=100)
        small = train(tmp_path, LARGE, root=ROOT, data=tmp_path)[0]['seconds']
        write_large(tmp_path / 'train.json')
        size = os.path.getsize(tmp_path / 'train.json') / 2**20
        starts = [train(tmp_path, LARGE, root=ROOT, data=tmp_path)[0] for _ in range(2)]
        for one, most in zip(starts, (4, 2)):  # what is read the first time is kept beside the file
            print(
                f'{size:.0f} MiB: first iteration after {one["seconds"]:.1f} s ({small:.1f} s of a small file), trainer'
                f' at most {one["most"] / 2**20:.2f} GiB, workers {np.array(one["workers"]) // 1024} MiB of their own'
            )
            assert one['seconds'] < most * small and one['most'] < 1.5 * 2**20
            assert max(one['workers']) < 50 * 1024
        seconds = subprocess.check_output(
            [
                sys.executable,
                '-c',
                (
                    'import sys, time; from mmdet.datasets.coco_table import read_table; start = time.time(); '
                    'read_table(sys.argv[1]); print(time.time() - start)'
                ),
                str(tmp_path / 'train.json'),
            ],
            cwd=ROOT,
            text=True,
        )
        print(f'kept: read in {float(seconds):.2f} s')
        assert float(seconds) < 2
    finally:
        for path in tmp_path.glob('train.json*'):
            path.unlink()
