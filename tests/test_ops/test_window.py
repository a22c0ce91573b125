"""The window: how earlier statistics follow the weights, against autograd and brute force in float64."""

import copy

import pytest
import torch
from reference.corner_convs import CONVS
from torch import nn
from torch.nn import functional as F

from mmdet.ops.norm import CBN, conv_norm, conv_stats
from mmdet.ops.norm.algebra import Entry, carry, row_dot, weighted_pool
from mmdet.ops.norm.conv_stats import mean_patch, sample, variance_gradient, weight_grad, weight_matrix
from mmdet.ops.norm.kernels import batch_stats
from mmdet.ops.norm.window import Window


def make(kind, seed=0):
    torch.manual_seed(seed)
    return CONVS[kind][0]().double()


def batch(kind, i, scale=1.0):
    generator = torch.Generator().manual_seed(100 + i)
    x = torch.randn(CONVS[kind][1], generator=generator, dtype=torch.float64)
    return scale * x * (1 + 0.3 * (i % 5)) + 0.5 * (i % 5)


def without_bias(conv, x, weight=None):
    weight = conv.weight if weight is None else weight
    zero = dict(weight=weight) if conv.bias is None else dict(weight=weight, bias=torch.zeros_like(conv.bias))
    return torch.func.functional_call(conv, zero, (x,))


def true_stats(conv, x, weight=None):
    y = without_bias(conv, x, weight)
    dims = [d for d in range(y.dim()) if d != 1]
    mean = y.mean(dims)
    return mean, (y - mean.view(1, -1, *(1,) * (y.dim() - 2))).square().mean(dims)


def entry_of(conv, x, stride=1):
    with torch.no_grad():
        y, matrix = conv(x), weight_matrix(conv, conv.weight)
        stats = batch_stats(y)
        patch = mean_patch(conv, x, y.shape)
        mean, var = true_stats(conv, x)
        torch.testing.assert_close(stats[1], var)
        grad, scale = variance_gradient(conv, x, y, matrix, *stats, stride)
        torch.testing.assert_close(scale * row_dot(grad, matrix), var)
        return entry_from(mean, var, patch, grad, matrix)


def entry_from(mean, var, patch, grad, matrix):
    return Entry(1.0, mean, var, patch, grad / row_dot(grad, matrix).unsqueeze(1), torch.ones_like(mean))


def carried(entry, matrix, how, clip=True):
    """Mean and variance under other weights, and where they are known; the mean is everywhere."""
    if not clip:
        entry = entry._replace(own=row_dot(entry.slope, matrix))
    out = carry([entry], matrix, torch.zeros_like(entry.mean), entry.var, how)
    return -out.gaps[0], out.vars[0], ~out.unknown[0]


def slope_by_autograd(conv, x):
    weight = conv.weight.detach().clone().requires_grad_()
    _, var = true_stats(conv, x, weight)
    (half,) = torch.autograd.grad(var.sum() / 2, weight)
    matrix, rows = weight_matrix(conv, conv.weight.detach()), weight_matrix(conv, half)
    return rows / (rows * matrix).sum(1, keepdim=True)


@pytest.mark.parametrize('kind', CONVS)
def test_mean_patch_and_slope_equal_autograd(kind):
    conv, x = make(kind), batch(kind, 3)
    entry = entry_of(conv, x)
    torch.testing.assert_close(entry.slope, slope_by_autograd(conv, x), rtol=1e-9, atol=1e-9)
    other = make(kind, seed=1)  # the mean is exact under any weights
    mean = carried(entry, weight_matrix(other, other.weight.detach()), 'secant', clip=False)[0]
    torch.testing.assert_close(mean, true_stats(other, x)[0].detach(), rtol=1e-9, atol=1e-9)


def trajectory(kind, steps):
    """Weights of a convolution that is trained by SGD to something."""
    conv, head = make(kind), None
    weights = [conv.weight.detach().clone()]
    for i in range(steps):
        y = without_bias(conv, batch(kind, i)).relu().flatten(1)
        head = head if head is not None else torch.randn(y.shape[1], 3, dtype=y.dtype)
        loss = F.cross_entropy(y @ head, torch.arange(len(y)) % 3)
        (grad,) = torch.autograd.grad(loss, conv.weight)
        with torch.no_grad():
            conv.weight -= 0.05 * grad / grad.norm() * conv.weight.norm()
        weights.append(conv.weight.detach().clone())
    return conv, weights


@pytest.mark.parametrize('source', ['random', 'trained'])
@pytest.mark.parametrize('kind', CONVS)
def test_truth_secant_taylor_in_this_order(kind, source):
    conv, weights = trajectory(kind, 10)
    if source == 'random':
        generator = torch.Generator().manual_seed(5)
        weights = [
            weights[0]
            + scale * weights[0].std() * torch.randn(weights[0].shape, generator=generator, dtype=torch.float64)
            for scale in (0, 0.01, 0.1, 0.3, 0.6, 1, 3)
        ]
    conv.weight.data = weights[0]
    x = batch(kind, 2)
    entry, closer, seen = entry_of(conv, x), 0, 0
    for weight in weights[1:]:
        matrix = weight_matrix(conv, weight)
        truth = true_stats(conv, x, weight)[1].detach()
        (_, secant, known), (_, taylor, _) = (carried(entry, matrix, how) for how in ('secant', 'taylor'))
        truth, secant, taylor = truth[known], secant[known], taylor[known]
        seen += len(truth)
        slack = 1e-12 * (1 + truth)
        assert (secant >= 0).all() and (truth >= secant - slack).all() and (secant >= taylor - slack).all()
        closer += ((truth - secant) < 0.99 * (truth - taylor)).sum()
    assert closer > 0.3 * seen > 0  # and not by rounding


def test_secant_is_exact_for_a_rescaled_filter():
    conv, x = make('3x3'), batch('3x3', 2)
    matrix = weight_matrix(conv, conv.weight.detach())
    for factor in (0.9, 1.3, 0.6):
        var = carried(entry_of(conv, x), factor * matrix, 'secant')[1]
        torch.testing.assert_close(var, true_stats(conv, x, factor * conv.weight)[1].detach())


def test_a_finer_partition_has_the_closer_secant():
    """Parts of a batch (processes' shares, say), carried and pooled, are between the whole's secant and the truth."""
    conv, x = make('3x3'), torch.cat([batch('3x3', i) for i in range(4)])
    weight = conv.weight.detach() + 0.1 * torch.randn(conv.weight.shape, dtype=torch.float64)
    matrix = weight_matrix(conv, weight)
    whole = carried(entry_of(conv, x), matrix, 'secant')[1]
    means, variances, _ = map(
        torch.stack, zip(*(carried(entry_of(conv, part), matrix, 'secant') for part in x.chunk(4)))
    )
    finer = weighted_pool(torch.ones_like(means), means, variances)[1]
    truth = true_stats(conv, x, weight)[1].detach()
    assert (whole < finer).all() and (finer < truth).all()


def reference(conv, batches, x, norm, compensation, weights, rho=1.0):
    """Normalization with statistics carried from kept inputs, in plain autograd.

    ``weights``: of the earlier batches, one tensor each.
    """
    y = conv(x)
    dims = [d for d in range(y.dim()) if d != 1]
    bias = 0 if conv.bias is None else conv.bias
    means, variances = [y.mean(dims)], [y.var(dims, correction=0)]
    matrix = weight_matrix(conv, conv.weight)
    for earlier, old in zip(batches, weights):
        with torch.no_grad():
            twin = copy.deepcopy(conv)
            twin.weight.copy_(old)
            mean0, var0 = true_stats(twin, earlier)
        with torch.enable_grad():
            slope = slope_by_autograd(twin, earlier)
        mean = mean0 + rho * (true_stats(conv, earlier)[0] - mean0)
        growth = rho * ((slope * matrix).sum(1) - 1)
        if compensation == 'secant':
            var = var0 * (1 + growth) ** 2
        else:
            var = (var0 * (1 + 2 * growth) - (mean - mean0) ** 2).clamp(min=0)
        means.append(mean + bias)
        variances.append(var)
    means, variances = torch.stack(means), torch.stack(variances)
    mean = means.mean(0)
    var = (variances + (means - mean) ** 2).mean(0)
    view = (1, -1) + (1,) * (y.dim() - 2)
    z = (y - mean.view(view)) / (var + norm.eps).sqrt().view(view)
    return z * norm.weight.view(view) + norm.bias.view(view)


def gradients(out, tensors, seed):
    direction = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(seed))
    return torch.autograd.grad((out.sin() * direction).sum(), tensors)


@pytest.mark.parametrize('kind', CONVS)
@pytest.mark.parametrize('compensation, rho', [('secant', 1.0), ('taylor', 1.0), ('secant', 0.6), ('taylor', 0.6)])
def test_window_gradient_equals_autograd(kind, compensation, rho):
    conv = make(kind)
    norm = CBN(
        weight_matrix(conv, conv.weight).shape[0], buffer_num=3, compensation=compensation, rho=rho, backprop='window'
    ).double()
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    parameters = [*conv.parameters(), *norm.parameters()]
    batches, weights = [], []
    for i in range(7):
        x = batch(kind, i).requires_grad_()
        twin = copy.deepcopy(norm)
        out, want = conv_norm(conv, norm, x), reference(conv, batches[-3:], x, twin, compensation, weights[-3:], rho)
        torch.testing.assert_close(out, want, rtol=1e-9, atol=1e-9)
        got = gradients(out, [*parameters, x], i)
        expected = gradients(want, [*conv.parameters(), *twin.parameters(), x], i)
        for a, b in zip(got, expected):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        batches.append(x.detach())
        weights.append(conv.weight.detach().clone())
        with torch.no_grad():
            for p, g in zip(parameters, got):
                p -= 0.05 * g / (g.norm() + 1e-3)


@pytest.mark.parametrize('pool', ['sliding', 'exponential'])
@pytest.mark.parametrize('kind', CONVS)
def test_window_gradient_is_orthogonal_to_the_weights(kind, pool):
    """Scale invariance, BN's, which the paper's gradient has not."""
    conv = make(kind)
    channels = weight_matrix(conv, conv.weight).shape[0]
    inner = {}
    for backprop in ('window', 'current'):
        twin = copy.deepcopy(conv)
        norm = CBN(channels, buffer_num=4, compensation='secant', backprop=backprop, pool=pool, eps=1e-14).double()
        for i in range(6):
            out = conv_norm(twin, norm, batch(kind, i))
            grads = gradients(out, list(twin.parameters()), i)
            with torch.no_grad():
                inner[backprop] = (grads[0] * twin.weight).sum().abs() / (grads[0].norm() * twin.weight.norm())
                for p, g in zip(twin.parameters(), grads):
                    p -= 0.1 * g / g.norm().clamp(min=1)
        if twin.bias is not None and backprop == 'window':  # a bias before the norm decides nothing
            assert grads[1].abs().max() < 1e-9
    assert inner['window'] < 1e-9 < 1e-4 < inner['current']


# -- exponential ----------------------------------------------------------------------------------------------------


def test_exponential_window_is_the_mixture_of_the_batches():
    """Under constant weights mean, variance and slope are those of the weighted mixture."""
    conv = make('groups')
    matrix = weight_matrix(conv, conv.weight.detach())
    window, length = Window(3, 'exponential', 'secant'), 3
    shares, entries = [], []
    for i in range(7):
        x = batch('groups', i)
        entries.append(entry_of(conv, x))
        b = 1 / (min(i, length) + 1)
        shares = [s * (1 - b) for s in shares] + [b]
        window.push(entries[-1]._replace(slope=None), entries[-1].slope.clone(), entries[-1].var, matrix, length)
    share = torch.tensor(shares, dtype=torch.float64)
    means, variances = torch.stack([e.mean for e in entries]), torch.stack([e.var for e in entries])
    mean = share @ means
    var = share @ (variances + (means - mean).square())
    got = window.entries[0]
    torch.testing.assert_close((got.mean, got.var), (mean, var), rtol=1e-9, atol=1e-9)
    functional = sum(s * e.var.unsqueeze(1) * e.slope for s, e in zip(share, entries))
    patches = torch.stack([e.patch for e in entries])
    centred = patches - (share.view(-1, 1, 1) * patches).sum(0)
    functional = functional + torch.einsum('s,sc,scd->cd', share, means - mean, centred.repeat_interleave(3, 1))
    torch.testing.assert_close((got.slope, got.own), (functional, var), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.patch, (share.view(-1, 1, 1) * patches).sum(0), rtol=1e-9, atol=1e-9)


def test_exponential_equals_sliding_until_it_is_full():
    """With constant weights and no more batches than its length the two windows are one."""
    conv = make('3x3')
    norms = [CBN(6, buffer_num=4, compensation='secant', pool=pool).double() for pool in ('sliding', 'exponential')]
    for i in range(5):
        outs = [conv_norm(conv, norm, batch('3x3', i)) for norm in norms]
        torch.testing.assert_close(*outs, rtol=1e-9, atol=1e-9)
        sum(out.square().sum() for out in outs).backward()


@pytest.mark.parametrize('kind', ['3x3', 'groups', 'linear', 'transposed'])
def test_exponential_window_gradient_equals_autograd(kind):
    """The gradient of the pool, whose earlier part is one entry carried to today's weights."""
    conv = make(kind)
    norm = CBN(6, buffer_num=3, compensation='secant', backprop='window', pool='exponential').double()
    for i in range(6):
        x = batch(kind, i)
        kept = copy.deepcopy(norm.window)
        out = conv_norm(conv, norm, x)
        got = gradients(out, list(conv.parameters()), i)
        y = conv(x)
        dims = [d for d in range(y.dim()) if d != 1]
        mean, var = y.mean(dims), y.var(dims, correction=0)
        if i:
            b = 1 / (min(i, 3) + 1)
            entry, matrix = kept.entries[0], weight_matrix(conv, conv.weight)
            patch = entry.patch.repeat_interleave(len(matrix) // len(entry.patch), 0)
            old = (patch * matrix).sum(1) + (0 if conv.bias is None else conv.bias)
            pooled = b * mean + (1 - b) * old
            old_var = entry.var * ((entry.slope * matrix).sum(1) / entry.own).square()
            var = b * (var + (mean - pooled) ** 2) + (1 - b) * (old_var + (old - pooled) ** 2)
            mean = pooled
        view = (1, -1) + (1,) * (y.dim() - 2)
        want = (y - mean.view(view)) / (var + norm.eps).sqrt().view(view)
        torch.testing.assert_close(out, want, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(got, gradients(want, list(conv.parameters()), i), rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            for p, g in zip(conv.parameters(), got):
                p -= 0.05 * g / (g.norm() + 1e-3)


@pytest.mark.parametrize('compensation', ['secant', 'taylor', 'none'])
@pytest.mark.parametrize('length', [4, 16, 64])
def test_exponential_window_is_stable(length, compensation):
    """300 steps of SGD: the average stays near the truth, recomputed from the kept batches."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, padding=1, bias=False)
    norm = CBN(
        8,
        buffer_num=length - 1,
        compensation=compensation,
        pool='exponential',
        backprop='current' if compensation == 'none' else 'window',
    )
    head = nn.Linear(8, 3)
    opt = torch.optim.SGD([*conv.parameters(), *norm.parameters(), *head.parameters()], 0.05, momentum=0.9)
    kept, errors = [], []
    for _i in range(300):
        x = torch.randn(2, 4, 6, 6) * (0.5 + torch.rand(())) + torch.randn(1, 4, 1, 1)
        out = head(F.relu(conv_norm(conv, norm, x)).mean((2, 3)))
        loss = F.cross_entropy(out, torch.arange(2))
        opt.zero_grad()
        loss.backward()
        opt.step()
        kept.append(x)
        assert out.isfinite().all()
    b = 1 / length
    share = torch.tensor([(1 - b) ** i for i in range(len(kept))]).flip(0)
    share /= share.sum()
    with torch.no_grad():
        means, variances = zip(*(true_stats(conv, x) for x in kept))
        means, variances = torch.stack(means), torch.stack(variances)
        mean = share @ means
        truth = share @ (variances + (means - mean).square())
        got = carried(norm.window.entries[0], weight_matrix(conv, conv.weight), compensation)[1]
    errors = (got / truth - 1).abs()
    assert len(norm.window) == 1 and errors.mean() < (0.1 if compensation == 'secant' else 0.5)


# -- sampling -------------------------------------------------------------------------------------------------------


def test_sampled_slopes_are_those_of_the_sample(monkeypatch):
    """A strided weight gradient equals the gradient of the sampled positions."""
    monkeypatch.setattr(conv_stats, 'MIN_SAMPLED_POSITIONS', 1)
    for kind in (
        '3x3',
        'stride',
        'dilation',
        'groups',
        'same',
        'reflect',
        'tensorflow',
        'conv1d',
        'conv3d',
        '1x1',
        'padded_1x1',
    ):
        conv, x = make(kind), batch(kind, 1)
        y = conv(x).detach()
        x_part, y_part, step = sample(conv, x, y, 2)
        assert y_part.numel() < y.numel()
        grad = torch.zeros_like(y)
        grad[(slice(None), slice(None), *(slice(None, None, 2),) * (y.dim() - 2))] = y_part
        torch.testing.assert_close(weight_grad(conv, x_part, y_part, step), weight_grad(conv, x, grad))


def test_few_positions_are_not_sampled():
    conv, x = make('3x3'), torch.zeros(2, 4, 20, 20)
    assert sample(conv, x, torch.zeros(2, 6, 20, 20), 2)[1].shape == (2, 6, 20, 20)
    assert sample(conv, x, torch.zeros(2, 6, 24, 24), 4)[1].shape == (2, 6, 12, 12)
    assert sample(conv, x, torch.zeros(2, 6, 64, 64), 4)[1].shape == (2, 6, 16, 16)


@pytest.mark.parametrize(
    'kind, shape',
    [('3x3', (2, 4, 40, 40)), ('3x3', (256, 4, 7, 7)), ('linear', (2000, 5)), ('transposed', (300, 4, 5, 5))],
)
def test_sampling_estimates_the_same_slopes(kind, shape):
    conv, generator = make(kind), torch.Generator().manual_seed(0)
    # smooth images, as features are
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = F.avg_pool2d(x, 3, 1, 1) if len(shape) == 4 else x
    matrix = weight_matrix(conv, conv.weight.detach())
    exact, part = entry_of(conv, x), entry_of(conv, x, 2)
    torch.testing.assert_close((part.slope * matrix).sum(1), torch.ones_like(part.mean))
    assert (part.patch == exact.patch).all() and (part.var == exact.var).all()
    moved = matrix + 0.05 * matrix.std() * torch.randn(matrix.shape, generator=generator, dtype=torch.float64)
    change = row_dot(exact.slope, moved) - 1
    error = (row_dot(part.slope, moved) - 1 - change).norm() / change.norm()
    assert 0 < error < 0.35


def test_bfloat16_products_do_not_show():
    """Slopes multiplied in bfloat16 carry the statistics as well as exact ones, next to the compensation's error."""
    torch.manual_seed(0)
    conv, x = nn.Conv2d(32, 16, 3, padding=1), torch.randn(4, 32, 14, 14).relu()
    with torch.no_grad():
        y, matrix = conv(x), weight_matrix(conv, conv.weight)
        stats = batch_stats(y)
        moved = matrix + 0.02 * matrix.std() * torch.randn(matrix.shape)
        truth = true_stats(conv, x, moved.view_as(conv.weight))[1]
        errors = []
        for dtype in (torch.float32, torch.bfloat16):
            grad, _ = variance_gradient(conv, x, y, matrix, *stats, dtype=dtype)
            entry = entry_from(*stats, mean_patch(conv, x, y.shape), grad, matrix)
            errors.append((carried(entry, moved, 'secant')[1] / truth - 1).abs().mean())
    assert abs(errors[1] - errors[0]) < 0.02 * errors[0]


def test_bfloat16_products_do_not_show_in_an_exponential_window():
    """Its ``<G, w>`` is taken for the variance, not measured again, so that the rounding stays in."""
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    norms = [
        CBN(64, 15, compensation='secant', backprop='window', pool='exponential', slope_dtype=dtype)
        for dtype in ('auto', 'float32')
    ]  # auto: bfloat16, where the processor has it
    for _ in range(60):
        x = torch.randn(1, 64, 12, 12).relu() * (0.5 + torch.rand(()))
        for norm in norms:
            conv.zero_grad()
            conv_norm(conv, norm, x).sin().sum().backward()
        with torch.no_grad():
            conv.weight -= 0.01 * conv.weight.grad * conv.weight.norm() / conv.weight.grad.norm()
    rough, exact = (norm.window.entries[0].var.sqrt() for norm in norms)
    assert (rough / exact - 1).abs().mean() < 2e-4
