"""Batch renormalization against the formulas of its paper, in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmdet.ops.norm import BRN, build_norm_layer, convert_norm

EPS, ALPHA = 1e-3, 0.1


def renormalize(y, gamma, beta, mu, sigma, r_max, d_max):
    """Algorithm 1; also the new averages."""
    mu_b = y.mean((0, 2, 3))
    sigma_b = ((y - mu_b.view(1, -1, 1, 1)).square().mean((0, 2, 3)) + EPS).sqrt()
    r = (sigma_b / sigma).clip(1 / r_max, r_max).detach()
    d = ((mu_b - mu) / sigma).clip(-d_max, d_max).detach()
    shape = 1, -1, 1, 1
    y_hat = (y - mu_b.view(shape)) / sigma_b.view(shape) * r.view(shape) + d.view(shape)
    mu, sigma = (old + ALPHA * (new.detach() - old) for old, new in ((mu, mu_b), (sigma, sigma_b)))
    return gamma.view(shape) * y_hat + beta.view(shape), mu, sigma


def test_against_the_papers_algorithm():
    torch.manual_seed(0)
    layer = BRN(4, r_max=1.5, d_max=0.5, burnin=2, r_ramp=4, d_ramp=2, eps=EPS, momentum=ALPHA).double()
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.uniform_(-1, 1)
    mu, sigma = torch.zeros(4).double(), torch.full((4,), (1 + EPS) ** 0.5).double()
    limits = [(1, 0), (1, 0), (1, 0), (1.125, 0.25), (1.25, 0.5), (1.375, 0.5), (1.5, 0.5), (1.5, 0.5)]
    for step, (r_max, d_max) in enumerate(limits):
        y = (torch.randn(2, 4, 3, 5).double() * (0.3 + step) + step).requires_grad_()
        weights = torch.randn_like(y)
        expected, mu, sigma = renormalize(y, layer.weight, layer.bias, mu, sigma, r_max, d_max)
        inputs = y, layer.weight, layer.bias
        wanted = torch.autograd.grad((expected * weights).sum(), inputs)
        z = layer(y)
        torch.testing.assert_close(z, expected)
        for got, want in zip(torch.autograd.grad((z * weights).sum(), inputs), wanted):
            torch.testing.assert_close(got, want)
        torch.testing.assert_close(layer.running_mean, mu)
        torch.testing.assert_close(layer.running_var, sigma.square() - EPS)
    y = y.detach()
    torch.testing.assert_close(
        layer.eval()(y), F.batch_norm(y, mu, sigma.square() - EPS, layer.weight, layer.bias, False, 0, EPS)
    )


def test_training_is_evaluation_where_nothing_is_clipped():
    layer = BRN(3, r_max=1e6, d_max=1e6, burnin=0, r_ramp=0, d_ramp=0).double()
    y = torch.randn(2, 3, 8, 8).double() * 3 + 1
    expected = F.batch_norm(y, layer.running_mean.clone(), layer.running_var.clone(), eps=layer.eps)
    torch.testing.assert_close(layer(y), expected)


def test_burn_in_is_batch_norm_and_goes_on_from_a_checkpoint():
    y = torch.randn(2, 3, 8, 8)
    layer, plain = BRN(3, burnin=2, r_ramp=0, d_ramp=0), nn.BatchNorm2d(3)
    torch.testing.assert_close(layer(y), plain(y))
    after = BRN(3, burnin=2, r_ramp=0, d_ramp=0)
    after.load_state_dict(layer.state_dict())
    after(y)
    assert not torch.allclose(after(y * 2 + 1), layer(y * 2 + 1))  # step 2 of one, step 1 of the other
    assert set(layer.state_dict()) == set(plain.state_dict())


def test_options_and_edges():
    name, layer = build_norm_layer(dict(type='BRN', r_max=2, burnin=10), 8)
    assert name == 'bn' and layer.r_max == 2
    assert layer(torch.zeros(0, 8, 3, 3)).shape == (0, 8, 3, 3)
    for options, word in ((dict(r_max=0.5), 'r_max'), (dict(d_max=-1), 'd_max'), (dict(burnin=True), 'burnin')):
        with pytest.raises(ValueError, match=word):
            BRN(4, **options)
    with pytest.raises(ValueError, match='expected'):
        layer(torch.zeros(2, 4, 3, 3))
    half = BRN(4, burnin=0, r_ramp=0, d_ramp=0)(torch.randn(2, 4, 3, 3).bfloat16())
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


def test_a_model_is_converted_there_and_back():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert convert_norm(model, dict(type='BRN', burnin=0)).converted
    assert isinstance(model[1], BRN) and model[1].momentum == 0.1
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    convert_norm(model, dict(type='BN'))
    assert type(model[1]) is nn.BatchNorm2d
