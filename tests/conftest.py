"""Data and configs that several tests share."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def load_tool(path) -> ModuleType:
    """The module of a command-line tool, given by its path from the root; of a door the one that it opens."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return sys.modules.get(module.main.__module__, module)


# A small config of the product's own parts: a narrow Mask R-CNN on tiny shapes.
TINY = """
_base_ = '{root}/configs/shapes/mask-rcnn_r18_fpn_cbn.py'
norm_cfg = dict(burnin=0, by_epoch=False)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, base_channels=8),
    neck=dict(norm_cfg=norm_cfg, in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, norm_cfg=norm_cfg),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16, norm_cfg=norm_cfg)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=100, max_per_img=50), rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(score_thr=0.0, max_per_img=10)))
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}'))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}'))
test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}'))
val_evaluator = dict(ann_file='{data}/annotations/val.json')
test_evaluator = dict(ann_file='{data}/annotations/val.json')
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(vis_backends=vis_backends)
randomness = dict(seed=0)
"""


def pytest_collection_modifyitems(items):
    """The longest files first, so that processes end together."""
    items.sort(key=lambda item: 'test_tools' not in item.path.parts)


@pytest.fixture(scope='session', autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def tiny_shapes(tmp_path_factory):
    """Folder of a shapes set: 6 + 5 images of 64 pixels."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    subprocess.run(
        [
            sys.executable,
            str(ROOT / 'tools/dataset_converters/make_shapes.py'),
            '--out',
            str(folder),
            '--train',
            '6',
            '--val',
            '5',
            '--size',
            '64',
            '--seed',
            '3',
        ],
        check=True,
    )
    return folder


@pytest.fixture(scope='session')
def tiny_config(tiny_shapes, tmp_path_factory):
    """Path of a config that trains for seconds."""
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text(TINY.format(root=ROOT, data=tiny_shapes))
    return path
