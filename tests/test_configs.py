"""Every config builds, mmdetection's models parameter by parameter; the READMEs say what the configs say."""

import gzip
import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet.config import check_model_config, load_config
from mmdet.config.check import check_parts
from mmdet.ops.norm import CBN, build_norm_layer
from mmdet.registry import MODELS, TRANSFORMS

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'configs').rglob('*rcnn*.py'))
# Recorded from mmdetection 3.5.1 by record_state_dicts.py in the same folder.
RECORDED = json.loads(gzip.decompress((ROOT / 'tests/data/mmdet3_state_dicts.json.gz').read_bytes()))
OF_MMDETECTION = {f'configs/{name}': index for name, index in RECORDED['configs'].items()}
FCOS = 'configs/faster_rcnn/faster-rcnn_r50_fpn_fcos-rpn_1x_coco.py'


@pytest.fixture
def no_random_weights(monkeypatch):
    """Models are built without filling their tensors."""
    for name in ('kaiming_uniform_', 'kaiming_normal_', 'uniform_', 'normal_'):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


@pytest.mark.parametrize('path', CONFIGS)
def test_config_builds(path, no_random_weights):
    init_default_scope('mmdet')
    cfg = Config.fromfile(str(ROOT / path))
    check_model_config(cfg)
    if '_base_/' not in path:
        check_parts(cfg, ('train', 'val', 'test'))
        for key in ('train_pipeline', 'test_pipeline'):
            for transform in cfg[key]:
                TRANSFORMS.build(transform)
        for key in ('train_dataloader', 'val_evaluator', 'optim_wrapper', 'param_scheduler', 'default_hooks'):
            assert key in cfg
    if '_base_/' not in path and path not in OF_MMDETECTION:
        # What a run writes into its folder is read back.
        assert Config.fromstring(cfg.pretty_text, '.py').model == cfg.model
    if cfg.model.backbone.get('depth', 18) == 18:  # of the large ones one of a kind is built below
        MODELS.build(cfg.model)


def one_of_a_kind():
    """A config of ours for each of the recorded models."""
    groups = {index: name for name, index in reversed(OF_MMDETECTION.items()) if (ROOT / name).exists()}
    return sorted(groups.values())


@pytest.mark.parametrize('path', one_of_a_kind())
def test_parameters_of_mmdetection(path, no_random_weights):
    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(str(ROOT / path)).model)
    found = sorted([name, list(tensor.shape)] for name, tensor in model.state_dict().items())
    assert found == RECORDED['models'][OF_MMDETECTION[path]]


def test_every_recorded_model_is_compared():
    assert {OF_MMDETECTION[path] for path in one_of_a_kind()} == set(OF_MMDETECTION.values()) - {OF_MMDETECTION[FCOS]}
    for word in ('r18', 'r101_fpn', 'x50-32x4d', 'x101-32x4d', 'x101-32x8d', 'x101-64x4d', 'c4', 'dc5', 'gn-ws'):
        assert any(word in path for path in one_of_a_kind()), word


PARTS_OF_A_USER = '''
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS


@MODELS.register_module()
class ResNetOfAUser(ResNet):
    """A backbone that only this config knows."""
'''

CONFIG_OF_A_USER = """
_base_ = ['{root}/configs/faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py']
default_scope = 'mmdet'
custom_imports = dict(imports=['parts_of_a_user'], allow_failed_imports=False)

data_root = '/balloon/'
model = dict(
    backbone=dict(_delete_=True, type='ResNetOfAUser', depth=18, base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64]),
    roi_head=dict(bbox_head=dict(num_classes=1)))
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args={{{{_base_.backend_args}}}}),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomChoiceResize', scales=[(1333, 640), (1333, 800)], keep_ratio=True),
    _base_.train_pipeline[3],
    dict(type='PackDetInputs')
]
train_dataloader = dict(dataset=dict(data_root=data_root, ann_file='train.json', pipeline=train_pipeline))
val_evaluator = dict(ann_file=data_root + 'val.json', metric={{{{_base_.val_evaluator.metric}}}})
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr={{{{_base_.optim_wrapper.optimizer.lr}}}}))
_base_.param_scheduler[1].milestones = [4, 5]
"""


def test_a_users_config(tmp_path, monkeypatch):
    """What mmdetection's documentation teaches to write: inheritance, _delete_, values of _base_, own modules."""
    (tmp_path / 'parts_of_a_user.py').write_text(PARTS_OF_A_USER)
    (tmp_path / 'config.py').write_text(CONFIG_OF_A_USER.format(root=ROOT))
    monkeypatch.syspath_prepend(str(tmp_path))
    cfg = load_config(str(tmp_path / 'config.py'))
    init_default_scope(cfg.default_scope)
    check_model_config(cfg)
    check_parts(cfg, ('train', 'val', 'test'))
    model = MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == 'ResNetOfAUser' and model.backbone.conv1.out_channels == 8
    assert model.roi_head.bbox_head.fc_cls.out_features == 2
    assert cfg.optim_wrapper == dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.02))
    assert [t.type for t in cfg.train_dataloader.dataset.pipeline] == [
        'LoadImageFromFile',
        'LoadAnnotations',
        'RandomChoiceResize',
        'RandomFlip',
        'PackDetInputs',
    ]
    assert cfg.train_dataloader.dataset.data_prefix.img == 'train2017/' and cfg.train_dataloader.batch_size == 2
    assert cfg.val_evaluator.metric == 'bbox' and cfg.val_evaluator.ann_file == '/balloon/val.json'
    assert cfg.param_scheduler[1].milestones == [4, 5] and cfg.param_scheduler[0].end == 500


def test_norms_of_a_family_differ_in_nothing_else():
    for folder, stem in (
        ('nuclei', 'mask-rcnn_r18_fpn'),
        ('shapes', 'mask-rcnn_r18_fpn'),
        ('bccd', 'faster-rcnn_r18_fpn'),
    ):
        texts = [
            re.sub(r'(#.*\n)?norm_cfg = .*\n', '', (ROOT / 'configs' / folder / f'{stem}_{norm}.py').read_text())
            for norm in ('bn', 'gn', 'cbn')
        ]
        assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize('model', ['faster', 'mask'])
def test_variants_of_the_published_cbn_config(model):
    """They differ from the paper's in the norm alone, and in it by what their names say."""

    def read(variant):
        path = ROOT / 'configs' / 'cbn' / f'{model}_rcnn_r50_fpn_{variant}_1x.py'
        return re.sub(r'(#.*\n)?norm_cfg = .*\n', '', path.read_text()), Config.fromfile(str(path)).norm_cfg

    text, paper = read('cbn_buffer3_burnin8')
    differences = dict(
        cbn_fast=dict(compensation='secant', sample_stride=2),
        synccbn=dict(type='SyncCBN'),
        cbnplus=dict(type='CBN+', buffer_num=15, burnin=500),
    )
    for variant, changes in differences.items():
        other, norm = read(variant)
        assert other == text
        kept = {} if variant == 'cbnplus' else paper
        assert norm == {**kept, **changes}
        layer = build_norm_layer(norm, 8)[1]
        assert layer.sync == (variant == 'synccbn') and layer.sample_stride == (1 if variant == 'synccbn' else 2)


def test_readme_shows_a_config_that_is_there():
    readme = (ROOT / 'README.md').read_text()
    block = re.search(r'```python\n(_base_.*?)```', readme, re.S).group(1)
    assert block == (ROOT / 'configs/cbn/mask_rcnn_r50_fpn_cbn_buffer3_burnin8_1x.py').read_text()


def test_mmdetections_config_with_cbn_as_the_readme_shows(tmp_path, no_random_weights):
    blocks = re.findall(r'```python\n(_base_.*?)```', (ROOT / 'README.md').read_text(), re.S)
    block = next(block for block in blocks if '/path/to/mmdetection' in block)
    (tmp_path / 'mine.py').write_text(block.replace('/path/to/mmdetection', str(ROOT)))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    cfg.model.backbone.init_cfg = None
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    assert sum(isinstance(module, CBN) for module in model.modules()) == 8 + 4


def expand(pattern):
    """'a_{b,c}.py' as the shell would: a_b.py, a_c.py."""
    choices = [part.split(',') for part in re.findall(r'\{(.*?)\}', pattern)]
    for chosen in itertools.product(*choices):
        rest = iter(chosen)
        yield re.sub(r'\{.*?\}', lambda match: next(rest), pattern)


def test_table_of_configs_is_complete():
    text = (ROOT / 'configs' / 'README.md').read_text()
    listed = [f'configs/{name}' for pattern in re.findall(r'^\| `(.*\.py)` \|', text, re.M) for name in expand(pattern)]
    assert sorted(listed) == [path for path in CONFIGS if '_base_/' not in path]
