"""A config out of a checkpoint builds registered parts and imports nothing."""

import sys

import pytest
import torch
from conftest import ROOT, load_tool
from mmengine.config import Config

from mmdet.apis import DetInferencer, init_detector
from mmdet.config import check_model_config, load_config, saved_config
from mmdet.models import MaskRCNN, ResNet


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that writes a file when it is imported, or when ``call`` is called; returns the file's path."""
    path = tmp_path / 'ran'
    source = f'from pathlib import Path\n\ndef call(*args, **kwargs):\n    Path({str(path)!r}).touch()\n\ncall()\n'
    (tmp_path / 'trap.py').write_text(source)
    (tmp_path / 'trapped').mkdir()
    for name in ('__init__', 'registry'):
        (tmp_path / 'trapped' / f'{name}.py').write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    for name in ('trap', 'trapped', 'trapped.registry'):
        sys.modules.pop(name, None)


@pytest.fixture(scope='module')
def plain(tiny_config):
    torch.manual_seed(0)
    model = init_detector(str(tiny_config))
    return dict(
        state_dict=model.state_dict(),
        meta=dict(cfg=load_config(str(tiny_config)).pretty_text, dataset_meta=dict(classes=('disc', 'square', 'star'))),
    )


SYSTEM = dict(type='os.system', command='touch {ran}')
#: settings of the config by dotted key, and what the error says
ATTACKS = [
    ({'model': SYSTEM}, r"'os.system' \(model.type\)"),
    ({'model.data_preprocessor': SYSTEM}, r'model.data_preprocessor.type'),
    ({'model.backbone': dict(type='trap.call')}, r"'trap.call' \(model.backbone.type\)"),
    ({'model.backbone': dict(type='trap')}, r"model.backbone.type: there is no 'trap'"),
    ({'model.neck.norm_cfg': dict(type='trap.call')}, r'model.neck.norm_cfg.type'),
    ({'model.neck.norm_cfg': dict(type='trap')}, r'model.neck.norm_cfg.*trap'),
    ({'model.neck.conv_cfg': dict(type='trap')}, r'model.neck.conv_cfg.*trap'),
    ({'model.roi_head.bbox_head.loss_cls': SYSTEM}, r'model.roi_head.bbox_head.loss_cls.type'),
    ({'model.rpn_head.anchor_generator': dict(type='subprocess.Popen', args='true')}, 'rpn_head.anchor_generator.type'),
    ({'model.backbone._scope_': 'trapped'}, r"'trapped' \(model.backbone._scope_\)"),
    ({'model.backbone.type': 'trapped.ResNet'}, r'model.backbone.type'),
    ({'default_scope': 'trapped'}, r"'trapped' \(default_scope\)"),
    ({'test_dataloader.dataset.pipeline': [dict(type='LoadImageFromFile'), SYSTEM]}, r'dataset.pipeline.1.type'),
    ({'test_dataloader.dataset.pipeline': [dict(type='LoadImageFromFile'), dict(type='trap')]}, 'trap'),
    # the name of a part under another key than 'type'
    (
        {
            'test_dataloader.dataset.pipeline': [
                dict(type='LoadImageFromFile'),
                dict(type='RandomResize', scale=(9, 9), resize_type='trap.call'),
            ]
        },
        'trap.call',
    ),
    (
        {
            'test_dataloader.dataset.pipeline': [
                dict(type='LoadImageFromFile'),
                dict(type='mmcv.RandomResize', scale=(9, 9), resize_type='trap.call'),
            ]
        },
        'trap.call',
    ),
    ({'visualizer': dict(type='trap.call')}, r'visualizer.type'),
    ({'visualizer': dict(type='trap')}, 'trap'),
    ({'custom_hooks': [SYSTEM]}, r'custom_hooks.0.type'),
    ({'custom_imports': dict(imports=['trap'])}, None),  # of no interest: nobody reads them
]


@pytest.mark.parametrize('attack, says', ATTACKS, ids=lambda value: None if isinstance(value, str) else str(value)[:50])
def test_a_checkpoints_config_runs_nothing(attack, says, plain, trap, tmp_path):
    cfg = Config.fromstring(plain['meta']['cfg'], '.py')
    for key, value in attack.items():
        parent, _, last = key.rpartition('.')
        node = cfg
        for part in filter(None, parent.split('.')):
            node = node[part]
        node[last] = {**value, 'command': f'touch {trap}'} if value is SYSTEM else value
    path = tmp_path / 'x.pth'
    torch.save(dict(plain, meta=dict(plain['meta'], cfg=cfg.pretty_text)), path)

    def build():
        DetInferencer(weights=str(path), device='cpu', show_progress=False)

    if says is None:
        build()
    else:
        with pytest.raises((ValueError, KeyError), match=says):
            build()
    assert not trap.exists() and not {'trap', 'trapped'} & set(sys.modules)


def test_tools_that_take_the_checkpoint_alone(plain, trap, tmp_path):
    cfg = Config.fromstring(plain['meta']['cfg'], '.py')
    cfg.train_dataloader.dataset.type = cfg.test_dataloader.dataset.type = 'trap.call'
    path = tmp_path / 'x.pth'
    torch.save(dict(state_dict=plain['state_dict'], meta=dict(cfg=cfg.pretty_text)), path)
    image = ROOT / 'demo/images/blood_cells.jpg'
    for tool, argv in (
        ('demo/image_demo.py', [str(image), '--weights', str(path), '--device', 'cpu']),
        ('tools/model_converters/publish_model.py', [str(path), str(tmp_path / 'y'), '--half']),
    ):
        with pytest.raises(ValueError, match="'trap.call'"):
            load_tool(tool).main(argv)
    assert not trap.exists()


def test_configs_saved_with_classes_in_them(plain):
    cfg = Config.fromstring(plain['meta']['cfg'], '.py')
    cfg.model.type, cfg.model.backbone.type = MaskRCNN, ResNet
    cfg.optim_wrapper.optimizer.type = torch.optim.SGD
    found = saved_config(dict(meta=dict(cfg=cfg.pretty_text)), 'x.pth')
    assert found.model.type == 'mmdet.MaskRCNN' and found.model.backbone.type == 'mmdet.ResNet'
    assert found.optim_wrapper.optimizer.type == 'mmengine.SGD'
    check_model_config(found)


@pytest.mark.parametrize(
    'part', [SYSTEM, dict(type=print), dict(type='torch.nn.Identity'), dict(type=torch.nn.Module)], ids=str
)
def test_a_callable_in_no_registry_is_no_part_of_a_model(tiny_config, part):
    cfg = load_config(str(tiny_config))
    cfg.model.neck = part
    with pytest.raises(ValueError, match=r'config .*, model.neck.type: \S+ is in no registry.*MODELS.register_module'):
        check_model_config(cfg)
