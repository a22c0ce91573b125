"""A convolution and a norm with running statistics at once, against both one after the other."""

import pytest
import torch
from torch import nn

from mmdet.ops.norm import CBN, SyncBN, build_norm_layer, conv_norm
from mmdet.ops.norm import frozen as module


def pair(kind='BN', dtype=torch.float64, affine=True, **options):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, **dict(dict(kernel_size=3, padding=1, bias=False), **options))
    norm = build_norm_layer(dict(type=kind, affine=affine), 6)[1].eval()
    for values in (norm.running_mean, *([norm.bias.data, norm.weight.data] if affine else [])):
        nn.init.normal_(values)
    nn.init.uniform_(norm.running_var, 0.2, 3)
    return nn.ModuleList([conv, norm]).to(dtype)


def run(both, x, one, half=False):
    leaf = x.clone().requires_grad_()
    both.zero_grad(set_to_none=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        y = conv_norm(*both, leaf) if one else both[1](both[0](leaf))
    y.backward(y.detach().cos())
    return [y, leaf.grad, *(p.grad for p in both.parameters())]


@pytest.fixture
def calls(monkeypatch):
    found, way = [], module._FrozenConvNorm.apply
    monkeypatch.setattr(module._FrozenConvNorm, 'apply', lambda *args: found.append(0) or way(*args))
    return found


@pytest.mark.parametrize('kind', ['BN', 'SyncBN', 'CBN', 'CBN+'])
@pytest.mark.parametrize('size', [1, 30])
@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(stride=2),
        dict(dilation=2, padding=2),
        dict(groups=2),
        dict(kernel_size=1, padding=0),
        dict(affine=False),
    ],
)
def test_values_and_gradients_are_those_of_both(kind, size, options, calls):
    both = pair(kind, **options)
    x = torch.randn(2, 4, size, size + 3, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    ours, plain = run(both, x, True), run(both, x, False)
    assert calls and torch.equal(ours[0], plain[0])
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-11)


def test_a_norm_that_starts_at_nought_learns():
    """As the last norm of a residual block: its weight's gradient must not be divided by it."""
    both = pair()
    both[1].weight.data.zero_()
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    ours, plain = run(both, x, True), run(both, x, False)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-11)
    assert ours[3].abs().min() > 0


def test_mixed_precision():
    both, x = pair(dtype=torch.float32), torch.randn(2, 4, 16, 16)
    for one, other in zip(run(both, x, True, True), run(both, x, False, True)):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05 * other.abs().max().item())


def test_parts_that_are_frozen_get_no_gradient():
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64, requires_grad=True)
    for frozen in (['0.weight'], ['1.weight'], ['1.bias'], ['1.weight', '1.bias'], ['0.weight', '1.weight', '1.bias']):
        both = pair()
        for name in frozen:
            both.get_parameter(name).requires_grad_(False)
        got, want = (
            {name: p.grad for name, p in both.named_parameters()} for one in (True, False) if run(both, x, one)
        )
        assert {name for name, grad in got.items() if grad is None} == set(frozen)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_the_input_of_the_norm_is_not_kept():
    both, x = pair(dtype=torch.float32), torch.randn(2, 4, 16, 16, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        conv_norm(*both, x)
    assert kept.count(x.shape) == 1 and torch.Size([2, 6, 16, 16]) not in kept


@pytest.mark.parametrize('kind', ['BN', 'SyncBN', 'CBN', 'CBN+'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('affine', [True, False])
def test_without_gradients_the_norm_works_in_the_convolutions_memory(kind, dtype, affine, monkeypatch):
    both, x = pair(kind, dtype, affine), torch.randn(2, 4, 9, 11).to(dtype)
    seen, conv2d = [], torch.nn.functional.conv2d
    monkeypatch.setattr(module.F, 'conv2d', lambda *args: seen.append(conv2d(*args)) or seen[-1])
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = conv_norm(*both, x)
            assert y.data_ptr() == seen[-1].data_ptr() and torch.equal(y, both[1](both[0](x)))
    assert torch.equal(conv_norm(*both.requires_grad_(False), x), y)


def test_who_looks_in_between_sees_both(calls):
    both, x, seen = pair(dtype=torch.float32), torch.randn(1, 4, 8, 8), []
    for part in both:
        handle = part.register_forward_hook(lambda *args: seen.append(0))
        conv_norm(*both, x)
        handle.remove()
    assert len(seen) == 2 and not calls


def test_others_are_left_alone(calls):
    x = torch.randn(2, 4, 8, 8)
    kinds = [SyncBN, CBN, nn.BatchNorm2d]
    own = type('Own', (nn.BatchNorm2d,), dict(forward=lambda self, y: y))
    for norm in (*[kind(6) for kind in kinds], own(6).eval(), nn.BatchNorm2d(6, track_running_stats=False).eval()):
        conv_norm(nn.Conv2d(4, 6, 1, bias=False), norm, x)
    norm = nn.BatchNorm2d(6).eval()
    for conv in (nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3, padding='same', bias=False), nn.ConvTranspose2d(4, 6, 1)):
        conv_norm(conv, norm, x)
    both = pair(dtype=torch.float32)
    with torch.no_grad():
        conv_norm(*both, x)
    assert not conv_norm(*both.requires_grad_(False), x).requires_grad
    assert not calls
