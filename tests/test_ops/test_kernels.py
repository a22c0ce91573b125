"""The passes over the activations: the CPU's and the fused kernels' way, against plain formulas."""

import pytest
import torch
from torch import nn

from mmdet.ops.norm import CBN, conv_norm, kernels

SHAPES = [(6, 5), (3, 5, 7), (2, 5, 4, 3), (2, 5, 3, 2, 4), (1, 5, 1, 1)]


def _reduce(grad, y, mean, invstd, weight, input_g, weight_g, bias_g):
    """What torch documents of SyncBatchNorm's reduction: sums of the gradient and of gradient times centred input."""
    dims = [d for d in range(y.dim()) if d != 1]
    centred = y - kernels.per_channel(mean, y)
    none = torch.empty(0)
    return grad.sum(dims), (grad * centred).sum(dims), none, none


def use_fused(monkeypatch):
    """Take the GPU's way, with the kernel that only it has stood in for by its definition."""
    monkeypatch.setattr(kernels, '_fused', lambda y: True)
    monkeypatch.setattr(torch, 'batch_norm_backward_reduce', _reduce)


@pytest.fixture(params=['plain', 'fused'])
def way(request, monkeypatch):
    if request.param == 'fused':
        use_fused(monkeypatch)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('affine', [True, False])
def test_forward_and_backward_equal_autograd(way, shape, affine):
    torch.manual_seed(0)
    y = (torch.randn(shape, dtype=torch.float64) * 2 + 3).requires_grad_()
    gamma, beta = (torch.randn(5, dtype=torch.float64).requires_grad_() if affine else None for _ in range(2))
    mean, var = kernels.batch_stats(y.detach())
    dims = [d for d in range(y.dim()) if d != 1]
    want_mean, want_var = y.mean(dims), y.var(dims, correction=0)
    torch.testing.assert_close((mean, var), (want_mean.detach(), want_var.detach()))

    # pooled with a constant: a position's share is 0.4 of the batch's
    pooled_mean = 0.4 * want_mean + 0.6
    pooled_var = 0.4 * (want_var + (want_mean - pooled_mean) ** 2) + 0.6 * (2 + (1 - pooled_mean) ** 2)
    view = lambda t: kernels.per_channel(t, y)  # noqa: E731
    want = (y - view(pooled_mean)) / (view(pooled_var) + 1e-5).sqrt()
    want = want * view(gamma) + view(beta) if affine else want
    with torch.no_grad():
        z = kernels.normalize(y, pooled_mean, pooled_var, gamma, beta, 1e-5)
    torch.testing.assert_close(z, want.detach())
    grad = torch.randn_like(want)
    expected = torch.autograd.grad(want, [y, gamma, beta] if affine else [y], grad)
    with torch.no_grad():
        invstd = (pooled_var + 1e-5).rsqrt()
        total, projected = kernels.backward_sums(grad, y, pooled_mean, invstd)
        scale = gamma * invstd if affine else invstd
        pulled = -scale * 0.4 / kernels.positions(y)
        grad_y = kernels.backward_input(
            grad, y, pooled_mean, pooled_var, 1e-5, scale, total * pulled, projected * pulled
        )
    torch.testing.assert_close(grad_y, expected[0])
    if affine:
        torch.testing.assert_close((projected, total), expected[1:])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_has_float32_statistics(dtype):
    y = (torch.randn(4, 5, 6, 7) + 3).to(dtype)
    mean, var = kernels.batch_stats(y)
    assert mean.dtype == var.dtype == torch.float32
    torch.testing.assert_close(
        (mean, var), (y.double().mean((0, 2, 3)).float(), y.double().var((0, 2, 3), correction=0).float())
    )


def test_large_mean_does_not_cancel():
    y = torch.randn(2, 5, 40, 40) + 3000
    _, var = kernels.batch_stats(y)
    torch.testing.assert_close(var, y.double().var((0, 2, 3), correction=0).float(), rtol=1e-4, atol=0)


def test_layer_is_the_same_both_ways(monkeypatch):
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 5, 3).double()
        norm = CBN(5, buffer_num=2, compensation='secant', backprop='window').double()
        for _ in range(4):
            conv.zero_grad()
            out = conv_norm(conv, norm, torch.randn(2, 3, 6, 6, dtype=torch.float64))
            out.sin().sum().backward()
        results.append((out, conv.weight.grad, norm.weight.grad, norm.running_var))
        use_fused(monkeypatch)
    torch.testing.assert_close(*results)
