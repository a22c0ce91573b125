"""CBN as the paper has it, plainly: what ours is tested against and timed against.

Two autograd calls a layer for dmu/dw and dnu/dw, the weights and both derivatives kept for every earlier batch,
``E[y^2] - mu^2`` for the variance, gradients through the current batch.
"""

from collections import deque

import torch
from torch import nn


def sum_per_channel(conv, weight_like):
    """Sum of a tensor shaped like the weights over everything but the output channel, (C_out,)."""
    if isinstance(conv, nn.modules.conv._ConvTransposeNd):
        return weight_like.unflatten(0, (conv.groups, -1)).flatten(3).sum((1, 3)).flatten()
    return weight_like.flatten(1).sum(1)


class PaperCBN(nn.Module):
    """``norm(conv, x)`` is the normalized output of ``conv``.

    Args:
        window: number of earlier batches.
        rho: scale of the compensation.
    """

    def __init__(self, num_features, window, rho=1.0, eps=1e-5, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(num_features, dtype=dtype))
        self.rho, self.eps = rho, eps
        self.earlier = deque(maxlen=window)

    def forward(self, conv, x):
        y = conv(x)
        view = (1, -1) + (1,) * (y.dim() - 2)
        dims = [d for d in range(y.dim()) if d != 1]
        mu, nu = y.mean(dims), y.square().mean(dims)
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        (dmu,) = torch.autograd.grad(mu.sum(), conv.weight, retain_graph=True)
        (dnu,) = torch.autograd.grad(nu.sum(), conv.weight, retain_graph=True)
        mus, nus = [mu], [nu]
        for mu0, nu0, dmu0, dnu0, w0, b0 in self.earlier:
            step = self.rho * (weight - w0)
            mu_i = mu0 + sum_per_channel(conv, dmu0 * step)
            nu_i = nu0 + sum_per_channel(conv, dnu0 * step)
            if bias is not None:  # the weights alone are expanded: today's bias replaces the old one
                shift = bias - b0
                nu_i, mu_i = nu_i + 2 * mu_i * shift + shift**2, mu_i + shift
            mus.append(mu_i)
            nus.append(torch.maximum(nu_i, mu_i**2))
        self.earlier.append(
            (mu.detach(), nu.detach(), dmu, dnu, weight.clone(), None if bias is None else bias.clone())
        )
        mu, nu = torch.stack(mus).mean(0), torch.stack(nus).mean(0)
        scale = self.weight * (nu - mu**2 + self.eps).rsqrt()
        return (y - mu.view(view)) * scale.view(view) + self.bias.view(view)

    def state_bytes(self):
        """Bytes kept for the earlier batches."""
        return sum(t.nbytes for entry in self.earlier for t in entry if t is not None)
