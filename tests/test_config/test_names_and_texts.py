"""Configs by name, and out of checkpoints without running them."""

import pytest
from conftest import ROOT
from mmengine.config import Config

from mmdet.config import config_names, find_config, saved_config
from mmdet.config.saved import parse_config
from mmdet.models import MaskRCNN


def test_every_config_has_a_name():
    path = ROOT / 'configs/cbn/mask_rcnn_r50_fpn_gn_1x.py'
    names = config_names()
    assert names['mask_rcnn_r50_fpn_gn_1x'] == [path] and find_config('mask_rcnn_r50_fpn_gn_1x') == path
    assert 'default_runtime' not in names


@pytest.mark.parametrize(
    'name, error, says',
    [
        ('mask_rcnn_r50_fpn_gn_1', KeyError, "nearest: 'mask_rcnn_r50_fpn_gn_1x'"),
        ('Mask_RCNN_R50_FPN_GN_1x', KeyError, "nearest: 'mask_rcnn_r50_fpn_gn_1x'"),
        (
            'mask-rcnn_r18_fpn_cbn',
            KeyError,
            'several .*nuclei/mask-rcnn_r18_fpn_cbn.py, .*shapes/mask-rcnn_r18_fpn_cbn.py',
        ),
        ('no/such/config.py', FileNotFoundError, 'no/such/config.py'),
    ],
)
def test_unknown_name(name, error, says):
    with pytest.raises(error, match=says):
        find_config(name)


def test_what_mmengine_prints_of_a_config_is_read_back():
    cfg = Config.fromfile(ROOT / 'configs/shapes/mask-rcnn_r18_fpn_cbn.py')
    cfg.odd = {'a-b': (1, -2.5e-7), 'c': dict(d=None, e=[]), 3: ({'f': True},), 'g': "it's\n", 'h': (2,)}
    cfg.limit = float('inf')
    cfg.kind = MaskRCNN
    found = parse_config(cfg.pretty_text, 'here')
    want = dict(cfg.to_dict(), kind='mmdet.models.detectors.two_stage.MaskRCNN')
    assert found.to_dict() == want


@pytest.mark.parametrize(
    'text, says',
    [
        ('import os', 'line 1: no assignment but import os'),
        ("a = __import__('os').system('true')", 'line 1: __import__.*no plain value'),
        ('a = 1\nb = dict(c=open("x"))', 'line 2: open'),
        ('a = [dict(**x)]', 'no plain value'),
        ('a = b', 'malformed'),
        ('a.b = 1', 'no assignment'),
        ('a = (', 'give the config file'),
        ('data = dict(test=dict())', 'mmdetection 2.x; give the config file'),
    ],
)
def test_code_in_a_checkpoints_config_is_refused(text, says):
    with pytest.raises(ValueError, match=f'(?s)checkpoint x.pth: .*{says}'):
        saved_config(dict(meta=dict(cfg=text)), 'x.pth')


def test_checkpoint_without_config():
    for checkpoint in (dict(), dict(meta=None), dict(meta=dict(epoch=1))):
        with pytest.raises(ValueError, match='x.pth: holds no config'):
            saved_config(checkpoint, 'x.pth')
