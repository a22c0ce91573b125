"""Convolutions with the weight's gradient from reordered maps, against torch's."""

import pytest
import torch
from torch import nn

from mmdet.ops import conv as module
from mmdet.ops.conv import conv2d
from mmdet.ops.norm import build_norm_layer, conv_norm
from mmdet.ops.norm.conv_stats import weight_grad, weight_matrix

OPTIONS = [
    {},
    dict(bias=False),
    dict(stride=2, padding=1),
    dict(dilation=2, padding=(2, 1)),
    dict(groups=2),
    dict(kernel_size=(1, 3)),
]


@pytest.fixture(autouse=True, params=[1, 200, 450, 1 << 21])
def seen(monkeypatch, request):
    """How many maps were reordered, on whatever processor, in pieces of rows, of images, or whole."""
    found, way = [], module._pieces
    monkeypatch.setattr(module, 'REORDERS', True)
    monkeypatch.setattr(module, 'PIECE', request.param)
    monkeypatch.setattr(module, '_pieces', lambda *args: found.append(0) or way(*args))
    return found


def example(dtype=torch.float64, **options):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, **dict(dict(kernel_size=3), **options)).to(dtype)
    return conv, torch.randn(2, 4, 9, 11, dtype=dtype).contiguous(memory_format=torch.channels_last)


def run(way, conv, x):
    conv.zero_grad(set_to_none=True)
    leaf = x.clone().requires_grad_()
    y = way(leaf)
    y.backward(y.detach().cos())
    return [y, leaf.grad, *(p.grad for p in conv.parameters())]


@pytest.mark.parametrize('options', OPTIONS)
def test_values_and_gradients_are_torchs(options, seen):
    conv, x = example(**options)
    ours = run(lambda x: conv2d(conv, x), conv, x)
    assert seen and ours[1].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, run(conv, conv, x), rtol=1e-10, atol=1e-12)


def test_parts_that_are_frozen_get_no_gradient():
    for frozen in ('weight', 'bias'):
        conv, x = example()
        conv.get_parameter(frozen).requires_grad_(False)
        torch.testing.assert_close(run(lambda x: conv2d(conv, x), conv, x), run(conv, conv, x), rtol=1e-10, atol=1e-12)


def test_second_derivatives():
    conv, x = example()
    x = x[:1, :, :4, :4].contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x, weight, bias: module._Conv2d.apply(x, weight, bias, (1, 1), (1, 1), (1, 1), 1),
        (x, *conv.parameters()),
    )


@pytest.mark.parametrize('kind', ['BN', 'CBN', 'CBN+', 'GN'])
@pytest.mark.parametrize('training', [True, False])
def test_with_a_norm(kind, training, monkeypatch):
    def result(reorders):
        monkeypatch.setattr(module, 'REORDERS', reorders)
        conv, x = example(bias=False, padding=1)
        options = dict(GN=dict(num_groups=2), BN={}).get(kind, dict(burnin=0, slope_dtype='float32'))
        norm = build_norm_layer(dict(type=kind, **options), 6)[1].double().train(training)
        both = nn.ModuleList([conv, norm])
        return [run(lambda x: conv_norm(conv, norm, x), both, x) for _ in range(3)]

    torch.testing.assert_close(result(True), result(False), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('options', OPTIONS)
def test_the_slopes_of_cbn(options, seen):
    conv, x = example(**options)
    y = conv(x)
    want = torch.autograd.grad(y, conv.weight, y.detach().cos())[0]
    got = weight_grad(conv, x, y.detach().cos())
    assert seen
    torch.testing.assert_close(got, weight_matrix(conv, want), rtol=1e-10, atol=1e-12)


def test_others_are_left_alone(seen):
    conv, x = example()
    observed = nn.Conv2d(4, 6, 3)
    observed.register_forward_hook(lambda *args: None)
    for other, maps in (
        (conv, x.contiguous()),
        (nn.Conv2d(4, 6, 1).double(), x),
        (nn.Conv2d(4, 6, 3, padding='same').double(), x),
        (observed.double(), x),
        (nn.Conv2d(4, 6, 3).bfloat16(), x.bfloat16()),
        (conv.requires_grad_(False), x),
    ):
        seen.clear()
        run(lambda x: conv2d(other, x), other, maps)
        assert not seen
    with torch.autocast('cpu', torch.bfloat16):
        assert conv2d(nn.Conv2d(4, 6, 3), x.float()).dtype == torch.bfloat16
