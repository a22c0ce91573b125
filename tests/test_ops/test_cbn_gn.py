"""The average of CBN+ and GN against its formula, its two parts, and its corners."""

import copy

import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch.nn import functional as F

from mmdet.models.layers import ConvModule
from mmdet.ops.norm import CBNGN, CBNPlus, build_norm_layer, conv_norm, convert_norm


def make(**kwargs):
    torch.manual_seed(0)
    conv, layer = nn.Conv2d(3, 8, 3).double(), CBNGN(4, 8, buffer_num=3, **kwargs).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return conv, layer


def test_against_the_formula():
    s = 0.3
    conv, layer = make(share=s)
    other, cbn = make()[0], CBNPlus(8, buffer_num=3, affine=False).double()
    own = [parameter.detach().clone().requires_grad_() for parameter in (layer.weight, layer.bias)]
    for step in range(6):
        x = torch.randn(2, 3, 9, 8).double() * (1 + step) + step
        z, aim = conv_norm(conv, layer, x), torch.randn(2, 8, 7, 6).double()
        gamma, beta = (parameter.view(1, -1, 1, 1) for parameter in own)
        y_cbn, y_gn = conv_norm(other, cbn, x), F.group_norm(other(x), 4)
        expected = gamma * (s * y_cbn + (1 - s) * y_gn) + beta
        torch.testing.assert_close(z, expected)
        mine, theirs = [conv.weight, conv.bias, layer.weight, layer.bias], [other.weight, other.bias, *own]
        for parameters, output in ((mine, z), (theirs, expected)):
            grads = torch.autograd.grad((output * aim).sum(), parameters)
            with torch.no_grad():
                for parameter, grad in zip(parameters, grads):
                    parameter -= 0.01 * grad
        for parameter, wanted in zip(mine, theirs):
            torch.testing.assert_close(parameter, wanted)
    assert layer.cbn.pools
    x = torch.randn(1, 3, 9, 8).double()
    gamma, beta = (parameter.view(1, -1, 1, 1) for parameter in own)
    y = other(x)
    expected = gamma * (s * cbn.eval()(y) + (1 - s) * F.group_norm(y, 4)) + beta
    torch.testing.assert_close(layer.eval()(y), expected)


@pytest.mark.parametrize('training', [True, False])
def test_its_two_ends(training):
    for share, plain in ((1 - 1e-12, CBNPlus(8, buffer_num=3)), (1e-12, nn.GroupNorm(4, 8))):
        conv, layer = make(share=share)
        plain.double().load_state_dict(
            {key: layer.state_dict().get(key, value) for key, value in plain.state_dict().items()}
        )
        other = make()[0]
        for _ in range(3):
            x = torch.randn(2, 3, 9, 8).double()
            torch.testing.assert_close(
                conv_norm(conv, layer.train(training), x), conv_norm(other, plain.train(training), x)
            )


def test_edges():
    name, layer = build_norm_layer(dict(type='CBN+GN', num_groups=2, buffer_num=7, requires_grad=False), 4)
    assert name == 'cbn_gn' and layer.cbn.buffer_num == 7 and not any(p.requires_grad for p in layer.parameters())
    conv, layer = nn.Conv2d(3, 8, 3), CBNGN(4, 8)
    conv_norm(conv, layer, torch.zeros(0, 3, 5, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    bare = CBNGN(4, 8, affine=False)
    assert not list(bare.parameters())
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(
        conv_norm(conv, bare, x), (F.batch_norm(conv(x), None, None, training=True) + F.group_norm(conv(x), 4)) / 2
    )
    assert 'share=0.5' in repr(bare)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        z = conv_norm(conv, layer, torch.randn(2, 3, 5, 5))
    assert z.dtype == torch.bfloat16 and z.isfinite().all()
    linear = CBNGN(2, 8)
    conv_norm(nn.Linear(3, 8), linear, torch.randn(5, 3)).sum().backward()


@pytest.mark.parametrize(
    'cfg, error, words',
    [
        (dict(), TypeError, "CBN.GN needs 'num_groups'"),
        (dict(num_groups=32), ValueError, 'num_groups must be an integer that divides the 8 channels, got 32'),
        (dict(num_groups=3), ValueError, 'got 3'),
        (dict(num_groups=4, share=1), ValueError, 'share must be .* got 1'),
        (dict(num_groups=4, share=True), ValueError, 'got True'),
        (dict(num_groups=4, buffer_num=0), ValueError, 'buffer_num'),
        (dict(num_groups=4, pool='slding'), ValueError, "'sliding'"),
        (dict(num_groups=4, bufer_num=3), TypeError, "nearest: 'buffer_num'"),
    ],
)
def test_what_it_refuses(cfg, error, words):
    with pytest.raises(error, match=words):
        build_norm_layer(dict(type='CBN+GN', **cfg), 8)


def with_norm(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6)).double()
    nn.init.normal_(norm.weight)
    return model


def test_batch_norms_become_it():
    model, own = with_norm(nn.BatchNorm2d(8, 1e-3, 0.3)), with_norm(CBNGN(4, 8, buffer_num=3, eps=1e-3, momentum=0.3))
    weight, running = model[1].weight, model[1].running_mean
    report = convert_norm(model, dict(type='CBN+GN', num_groups=4, buffer_num=3))
    assert report.converted == {'1': '0'} and '6 channels' in report.left['4']
    assert model[1].weight is weight and model[1].cbn.running_mean is running
    assert model.state_dict().keys() == own.state_dict().keys()
    for _ in range(4):
        x = torch.randn(2, 3, 9, 8).double()
        outputs = model[1](model[0](x)), conv_norm(own[0], own[1], x)
        torch.testing.assert_close(*outputs)
        grads = [
            torch.autograd.grad((z**3).sum(), list(each[:2].parameters())) for z, each in zip(outputs, (model, own))
        ]
        torch.testing.assert_close(*grads)
    assert model[1].cbn.step == 4 and model[1].cbn.pools
    model[1].eval()
    torch.testing.assert_close(model[1](model[0](x)), own[1].eval()(own[0](x)))
    assert not convert_norm(model[:4], dict(type='BN')).converted and type(model[1].cbn) is CBNPlus  # no way back


def test_the_layers_settings_and_place_carry_over():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False, momentum=None)).double().eval()
    convert_norm(model, dict(type='CBN+GN', num_groups=4, requires_grad=False))
    assert not model.training and not model[1].cbn.training and model[1].cbn.momentum is None
    assert not list(model[1].parameters())
    model(torch.randn(1, 3, 6, 6).double())
    copy.deepcopy(model).train()(torch.randn(1, 3, 6, 6).double()).sum().backward()


def test_it_takes_a_batch_norms_checkpoint():
    model, bn = with_norm(CBNGN(4, 8)), with_norm(nn.BatchNorm2d(8))
    bn(torch.randn(4, 3, 9, 9).double())
    missing, unexpected = model.load_state_dict(bn.state_dict(), strict=False)
    assert not missing and not unexpected
    assert torch.equal(model[1].cbn.running_var, bn[1].running_var) and torch.equal(model[1].weight, bn[1].weight)
    model.load_state_dict(copy.deepcopy(model.state_dict()))


def test_its_parameters_are_a_norms_for_the_optimizer():
    model = with_norm(CBNGN(4, 8))
    optimizer = build_optim_wrapper(
        model, dict(optimizer=dict(type='SGD', lr=1.0, weight_decay=1.0), paramwise_cfg=dict(norm_decay_mult=0.0))
    ).optimizer
    decays = {
        name: group['weight_decay']
        for group in optimizer.param_groups
        for p in group['params']
        for name, each in model.named_parameters()
        if each is p
    }
    assert {name for name, decay in decays.items() if decay} == {'0.weight', '0.bias', '3.weight', '3.bias'}


def test_it_is_not_put_into_the_convolution():
    module = ConvModule(3, 8, 3, norm_cfg=dict(type='CBN+GN', num_groups=4)).eval()
    x = torch.randn(1, 3, 6, 6)
    before = module(x)
    torch.testing.assert_close(fuse_conv_bn(module)(x), before)
