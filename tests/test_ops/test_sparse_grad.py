"""The convolution that leaves out places without a gradient, against the plain one."""

import pytest
import torch
from torch import nn

from mmdet.ops import sparse_grad
from mmdet.ops.sparse_grad import SparseGradConv2d


def run(conv, x, mask, **autocast):
    leaf = x.clone().requires_grad_()
    conv.zero_grad(set_to_none=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=bool(autocast)):
        out = conv(leaf)
    out.backward((out.detach().double().cos() * mask).to(out.dtype))
    return [out, leaf.grad, *(p.grad for p in conv.parameters())]


@pytest.mark.parametrize('part', [0, 0.02, 0.2, 1])
@pytest.mark.parametrize('options', [dict(padding=1), dict(padding=(0, 2)), dict(padding=1, bias=False)])
def test_values_and_gradients_are_those_of_the_plain_one(part, options, monkeypatch):
    """Whatever the part of places with a gradient; which way is taken follows from it."""
    calls = []
    way = sparse_grad._backward_at
    monkeypatch.setattr(sparse_grad, '_backward_at', lambda *args: calls.append(0) or way(*args))
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, (3, 2), **options).double()
    ours = SparseGradConv2d(3, 5, (3, 2), **options).double()
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 12, 17, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    mask = torch.rand(2, 1, *plain(x).shape[2:]) < part
    torch.testing.assert_close(run(ours, x, mask), run(plain, x, mask), rtol=0, atol=1e-12)
    assert len(calls) == (part < 1)


@pytest.mark.parametrize('part', [0.02, 1])
def test_mixed_precision(part):
    torch.manual_seed(0)
    plain, ours = nn.Conv2d(8, 8, 3, padding=1), SparseGradConv2d(8, 8, 3, padding=1)
    ours.load_state_dict(plain.state_dict())
    x, mask = torch.randn(2, 8, 16, 16), torch.rand(2, 1, 16, 16) < part
    for one, other in zip(run(ours, x, mask, on=True), run(plain, x, mask, on=True)):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.02 * other.abs().max().item())


def test_others_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(sparse_grad._SparseGradConv, 'apply', None)
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        SparseGradConv2d(4, 4, 3)(x)
    for options in (
        dict(stride=2),
        dict(dilation=2),
        dict(groups=2),
        dict(padding='same'),
        dict(padding_mode='reflect'),
    ):
        conv = SparseGradConv2d(4, 4, 3, **options)
        assert torch.equal(conv(x), nn.Conv2d.forward(conv, x))
    SparseGradConv2d(4, 4, 3)(x[0])
    torch.jit.trace(SparseGradConv2d(4, 4, 3), x)


def test_frozen_weights_and_inputs_get_no_gradient():
    conv = SparseGradConv2d(2, 2, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 2, 9, 9, requires_grad=True)
    conv(x)[..., 4, 4].sum().backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is None for p in conv.parameters())
    conv.requires_grad_(True)
    conv(x.detach())[..., 4, 4].sum().backward()
    assert all(p.grad is not None for p in conv.parameters())
