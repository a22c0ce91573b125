"""Scripts as users of mmdetection 3.x write them: nothing in them is of ours."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT

DETECT = """
import mmcv
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
import mmdet
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample, SampleList
from mmdet.structures.bbox import bbox_overlaps
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.utils import get_test_pipeline_cfg, register_all_modules
from mmcv.transforms import Compose

register_all_modules()
cfg = Config.fromfile(config_file)
cfg.model.test_cfg.rcnn.max_per_img = 5
init_default_scope(cfg.get('default_scope', 'mmdet'))
model = init_detector(cfg, checkpoint_file, device='cpu')

results = inference_detector(model, images)
assert isinstance(results[0], DetDataSample)
boxes = results[0].pred_instances.bboxes
assert bbox_overlaps(boxes, boxes).diagonal().allclose(torch.ones(len(boxes)), atol=1e-3)
masks = BitmapMasks(results[0].pred_instances.masks.numpy(), *results[0].ori_shape)

visualizer = VISUALIZERS.build(model.cfg.visualizer)
visualizer.dataset_meta = model.dataset_meta
for i, (path, result) in enumerate(zip(images, results)):
    img = mmcv.imconvert(mmcv.imread(path), 'bgr', 'rgb')
    visualizer.add_datasample(
        'result', img, data_sample=result, draw_gt=False, show=False, wait_time=0, out_file=f'{out_dir}/{i}.png',
        pred_score_thr=0.0, step=i)
frame = visualizer.get_image()

# a video: frames are arrays
test_pipeline = get_test_pipeline_cfg(model.cfg).copy()
test_pipeline[0].type = 'mmdet.LoadImageFromNDArray'
test_pipeline = Compose(test_pipeline)
of_array = inference_detector(model, mmcv.imread(images[0]), test_pipeline=test_pipeline)

inferencer = DetInferencer(model=config_file, weights=checkpoint_file, device='cpu', show_progress=False)
packed = inferencer(images, batch_size=2, out_dir=out_dir, no_save_pred=False, pred_score_thr=0.3)
"""

CUSTOM = """
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
import mmdet
from mmdet.datasets import CocoDataset
from mmdet.datasets.coco import CocoDataset as same
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.evaluation import CocoMetric
from mmdet.models import FPN, MaskRCNN, ResNet
from mmdet.models.detectors import TwoStageDetector
from mmdet.registry import DATASETS, HOOKS, METRICS, MODELS, TASK_UTILS, TRANSFORMS
from mmdet.utils import (ConfigType, InstanceList, OptConfigType, OptInstanceList, OptMultiConfig, collect_env,
                         register_all_modules, setup_cache_size_limit_of_dynamo)

seen = dict(images=0, iterations=0)


@DATASETS.register_module()
class ScriptShapes(CocoDataset):
    METAINFO = {'classes': ('circle', 'square', 'triangle'), 'palette': [(220, 20, 60), (0, 0, 142), (0, 60, 100)]}


@TRANSFORMS.register_module()
class ScriptBrighter(BaseTransform):
    def __init__(self, by):
        self.by = by

    def transform(self, results):
        seen['images'] += 1
        results['img'] = results['img'].clip(0, 255 - self.by) + self.by
        return results


@HOOKS.register_module()
class ScriptHook(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        seen['iterations'] += 1
        assert outputs['loss'] > 0


@MODELS.register_module()
class ScriptFPN(FPN):
    def __init__(self, in_channels: list, out_channels: int, init_cfg: OptMultiConfig = None, **kwargs) -> None:
        super().__init__(in_channels, out_channels, init_cfg=init_cfg, **kwargs)
        self.extra = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, inputs):
        return tuple(self.extra(x) for x in super().forward(inputs))


setup_cache_size_limit_of_dynamo()
assert collect_env()['MMDetection'].startswith(mmdet.__version__)
cfg = Config.fromfile(config_file)
cfg.work_dir = work_dir
cfg.model.neck.type = 'ScriptFPN'
for loader in (cfg.train_dataloader, cfg.val_dataloader):
    loader.dataset.type = 'ScriptShapes'
    loader.dataset.pop('metainfo', None)
cfg.train_dataloader.dataset.pipeline.insert(2, dict(type='ScriptBrighter', by=3))
cfg.custom_hooks = [dict(type='ScriptHook')]
cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
runner = Runner.from_cfg(cfg)
runner.train()
"""


@pytest.fixture(scope='module')
def trained(tiny_config, tmp_path_factory):
    """What a script with parts of its own leaves in its namespace."""
    names = dict(config_file=str(tiny_config), work_dir=str(tmp_path_factory.mktemp('script')))
    exec(CUSTOM, names)
    return names


def test_a_scripts_own_parts(trained):
    assert trained['seen'] == dict(images=6, iterations=3)
    assert trained['runner'].val_dataloader.dataset.metainfo['palette'][0] == (220, 20, 60)
    assert type(trained['runner'].model.neck).__name__ == 'ScriptFPN'


def test_detection_script(trained, tiny_config, tiny_shapes, tmp_path):
    images = sorted(str(path) for path in (tiny_shapes / 'val').iterdir())[:3]
    cfg = tiny_config.parent / 'script.py'
    cfg.write_text(f"_base_ = '{tiny_config}'\nmodel = dict(neck=dict(type='ScriptFPN'))\n")
    names = dict(
        config_file=str(cfg),
        checkpoint_file=f'{trained["work_dir"]}/epoch_1.pth',
        images=images,
        out_dir=str(tmp_path / 'out'),
    )
    exec(DETECT, names)
    results, packed = names['results'], names['packed']
    assert names['model'].dataset_meta['palette'][0] == (220, 20, 60)  # the checkpoint's
    assert [len(result.pred_instances) for result in results] == [5] * 3
    assert (names['of_array'].pred_instances.bboxes == results[0].pred_instances.bboxes).all()
    assert names['masks'].masks.shape == (5, 64, 64)
    assert names['frame'].shape == (64, 64, 3)
    for i, path in enumerate(images):
        drawn = cv2.imread(f'{tmp_path}/out/{i}.png')
        enlarged = cv2.resize(cv2.imread(path), drawn.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        assert min(drawn.shape[:2]) >= 480 and (drawn != enlarged).any()
    assert sorted(path.name for path in (tmp_path / 'out' / 'vis').iterdir()) == [
        '000000.png',
        '000001.png',
        '000002.png',
    ]
    for i, result in enumerate(packed['predictions']):
        assert result == json.loads((tmp_path / f'out/preds/00000{i}.json').read_text())
        assert np.allclose(result['bboxes'][:5], results[i].pred_instances.bboxes, atol=1e-3)


def test_low_layers_import_the_rest_of_mmdet_only_when_asked():
    code = (
        'import sys, mmdet.utils, mmdet.structures; '
        "assert not [m for m in sys.modules if m.startswith(('mmdet.models', 'mmdet.datasets', 'mmdet.engine'))]; "
        'mmdet.utils.register_all_modules(); from mmengine.registry import DefaultScope; '
        "assert DefaultScope.get_current_instance().scope_name == 'mmdet' and 'mmdet.engine' in sys.modules; "
        'from mmdet.registry import MODELS, HOOKS, DATASETS; '
        "assert 'MaskRCNN' in MODELS.module_dict and 'CocoDataset' in DATASETS.module_dict"
    )
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
