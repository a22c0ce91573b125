"""The mixture of CBN+ and GN against its formula, its two parts, and its corners."""
import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from torch import nn
from torch.nn import functional as F

from mmdet.models.layers import ConvModule
from mmdet.ops.norm import CBNGN, CBNPlus, build_norm_layer, conv_norm, convert_norm


def make(**kwargs):
    torch.manual_seed(0)
    conv, layer = nn.Conv2d(3, 8, 3).double(), CBNGN(8, num_groups=4, buffer_num=3, **kwargs).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return conv, layer


def test_against_the_formula():
    conv, layer = make()
    other, cbn = make()[0], CBNPlus(8, buffer_num=3, affine=False).double()
    own = [parameter.detach().clone().requires_grad_() for parameter in (layer.mix, layer.weight, layer.bias)]
    for step in range(6):
        x = torch.randn(2, 3, 9, 8).double() * (1 + step) + step
        z, aim = conv_norm(conv, layer, x), torch.randn(2, 8, 7, 6).double()
        a, gamma, beta = (parameter.view(1, -1, 1, 1) for parameter in own)
        y_cbn, y_gn = conv_norm(other, cbn, x), F.group_norm(other(x), 4)
        expected = gamma * (a.sigmoid() * y_cbn + (1 - a.sigmoid()) * y_gn) + beta
        torch.testing.assert_close(z, expected)
        mine, theirs = [conv.weight, conv.bias, layer.mix, layer.weight, layer.bias], [other.weight, other.bias, *own]
        for parameters, output in ((mine, z), (theirs, expected)):
            grads = torch.autograd.grad((output * aim).sum(), parameters)
            with torch.no_grad():
                for parameter, grad in zip(parameters, grads):
                    parameter -= 0.01 * grad
        for parameter, wanted in zip(mine, theirs):
            torch.testing.assert_close(parameter, wanted)
    assert layer.cbn.pools
    x = torch.randn(1, 3, 9, 8).double()
    a, gamma, beta = (parameter.view(1, -1, 1, 1) for parameter in own)
    y = other(x)
    expected = gamma * (a.sigmoid() * cbn.eval()(y) + (1 - a.sigmoid()) * F.group_norm(y, 4)) + beta
    torch.testing.assert_close(layer.eval()(y), expected)


@pytest.mark.parametrize('training', [True, False])
def test_its_two_ends(training):
    for mix, plain in ((60., CBNPlus(8, buffer_num=3)), (-60., nn.GroupNorm(4, 8))):
        conv, layer = make()
        nn.init.constant_(layer.mix, mix)
        plain.double().load_state_dict({key: layer.state_dict().get(key, value)
                                        for key, value in plain.state_dict().items()})
        other = make()[0]
        for _ in range(3):
            x = torch.randn(2, 3, 9, 8).double()
            torch.testing.assert_close(conv_norm(conv, layer.train(training), x),
                                       conv_norm(other, plain.train(training), x))


def test_edges():
    name, layer = build_norm_layer(dict(type='CBN+GN', num_groups=2, buffer_num=7, requires_grad=False), 4)
    assert name == 'cbn_gn' and layer.cbn.buffer_num == 7 and not any(p.requires_grad for p in layer.parameters())
    conv, layer = nn.Conv2d(3, 8, 3), CBNGN(8, num_groups=4)
    conv_norm(conv, layer, torch.zeros(0, 3, 5, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    bare = CBNGN(8, num_groups=4, affine=False)
    assert [key for key, _ in bare.named_parameters()] == ['mix']
    with torch.autocast('cpu', dtype=torch.bfloat16):
        z = conv_norm(conv, layer, torch.randn(2, 3, 5, 5))
    assert z.dtype == torch.bfloat16 and z.isfinite().all()
    linear = CBNGN(8, num_groups=2)
    conv_norm(nn.Linear(3, 8), linear, torch.randn(5, 3)).sum().backward()


@pytest.mark.parametrize('cfg, error, words', [
    (dict(), ValueError, 'num_groups must be an integer that divides the 8 channels, got 32'),
    (dict(num_groups=3), ValueError, 'got 3'), (dict(num_groups=4, buffer_num=0), ValueError, 'buffer_num'),
    (dict(num_groups=4, pool='slding'), ValueError, "'sliding'"),
    (dict(num_groups=4, bufer_num=3), TypeError, "did you mean 'buffer_num'")])
def test_what_it_refuses(cfg, error, words):
    with pytest.raises(error, match=words):
        build_norm_layer(dict(type='CBN+GN', **cfg), 8)


def test_batch_norms_cannot_become_it():
    with pytest.raises(ValueError, match="got type='CBN.GN'"):
        convert_norm(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), dict(type='CBN+GN', num_groups=4))


def test_it_is_not_put_into_the_convolution():
    module = ConvModule(3, 8, 3, norm_cfg=dict(type='CBN+GN', num_groups=4)).eval()
    x = torch.randn(1, 3, 6, 6)
    before = module(x)
    torch.testing.assert_close(fuse_conv_bn(module)(x), before)
