"""The head whose backward pass leaves out places without a gradient, against modules one after the other."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmdet.ops import sparse_grad
from mmdet.ops.sparse_grad import sparse_head


def modules(kind=torch.float64, **options):
    torch.manual_seed(0)
    return nn.ModuleList(
        [nn.Conv2d(3, 6, 3, **dict(dict(padding=1), **options)), nn.Conv2d(6, 2, 1), nn.Conv2d(6, 8, 1)]
    ).to(kind)


def plain(x, conv, *heads):
    hidden = F.relu(conv(x))
    return tuple(head(hidden) for head in heads)


def run(function, parts, x, mask, half=False):
    leaf = x.clone().requires_grad_()
    parts.zero_grad(set_to_none=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        outs = function(leaf, *parts)
    sum((out.double() * (out.detach().double().cos() * mask)).sum() for out in outs).backward()
    return [*outs, leaf.grad, *(p.grad for p in parts.parameters())]


@pytest.fixture
def ways(monkeypatch):
    """Counts how often it goes through the places one by one."""
    calls, way = [], sparse_grad._at_places
    monkeypatch.setattr(sparse_grad, '_at_places', lambda *args: calls.append(0) or way(*args))
    return calls


@pytest.mark.parametrize('part', [0, 0.02, 0.2, 1])
@pytest.mark.parametrize('options', [{}, dict(padding=(0, 2)), dict(bias=False)])
def test_values_and_gradients_are_those_of_the_modules(part, options, ways):
    """Whatever the part of places with a gradient; which way is taken follows from it."""
    parts = modules(**options)
    x = torch.randn(2, 3, 12, 17, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    mask = torch.rand(2, 1, *plain(x, *parts)[0].shape[2:]) < part
    torch.testing.assert_close(run(sparse_head, parts, x, mask), run(plain, parts, x, mask), rtol=0, atol=1e-12)
    assert len(ways) == (part < 1)


@pytest.mark.parametrize('part', [0.02, 1])
def test_mixed_precision(part):
    parts = modules(torch.float32)
    x, mask = torch.randn(2, 3, 16, 16), torch.rand(2, 1, 16, 16) < part
    for one, other in zip(run(sparse_head, parts, x, mask, True), run(plain, parts, x, mask, True)):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.02 * other.abs().max().item())


def test_what_cannot_be_done_is_left_to_the_modules():
    x, parts = torch.randn(1, 4, 8, 8), [nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)]
    assert sparse_head(x, *parts) is not None
    with torch.no_grad():
        assert sparse_head(x, *parts) is None
    for options in (
        dict(stride=2),
        dict(dilation=2),
        dict(groups=2),
        dict(padding='same'),
        dict(padding_mode='reflect'),
    ):
        assert sparse_head(x, nn.Conv2d(4, 4, 3, **options), parts[1]) is None
    assert sparse_head(x, parts[0], nn.Conv2d(4, 4, 3)) is None
    assert sparse_head(x, type('Own', (nn.Conv2d,), {})(4, 4, 3), parts[1]) is None
    assert sparse_head(x[0], *parts) is None
    handle = parts[1].register_forward_hook(print)
    assert sparse_head(x, *parts) is None
    handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    assert sparse_head(x, *parts) is None
    handle.remove()
    assert sparse_head(x, *parts) is not None


def test_frozen_weights_and_inputs_get_no_gradient(ways):
    parts = modules(torch.float32)
    parts[0].requires_grad_(False)
    x = torch.randn(1, 3, 9, 9, requires_grad=True)
    sparse_head(x, *parts)[0][..., 4, 4].sum().backward()
    assert x.grad.abs().sum() > 0 and parts[0].weight.grad is None and parts[1].weight.grad is not None
    parts.requires_grad_(True)
    for places in (4, slice(None)):
        parts.zero_grad()
        sparse_head(x.detach(), *parts)[0][..., places].sum().backward()
        assert parts[0].weight.grad is not None
    parts.requires_grad_(False)
    sparse_head(x, *parts)[0].sum().backward()
    assert len(ways) == 2


def test_the_gradient_of_a_map_owns_its_memory(ways):
    """Then autograd adds that of the map's next consumer in place."""
    seen = []
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    x.register_hook(lambda grad: seen.append(grad._is_view()))
    sparse_head(x, *modules())[0][..., 4, 4].sum().backward()
    assert seen == [False] and ways
