"""Short trainings of one layer, in float64, whose every number is recorded: what a change of the code must not change.

With the code whose answers are to be kept: python tests/reference/norm_trajectories.py tests/data/norm_trajectories.npz
Only public names are used. Arrays are kept as their inner products with two fixed random vectors.
"""

import copy
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parents[1]))
from reference.corner_convs import CONVS

from mmdet.ops.norm import CBN, conv_norm

WINDOW = dict(compensation='secant', backprop='window')
PLUS = dict(WINDOW, pool='exponential', running_stats='pooled')
SETTINGS = {
    'paper': dict(),
    'paper, burn-in': dict(burnin=3),
    'paper, growing': dict(burnin=6, two_stage=False),
    'naive': dict(compensation='none', running_stats='pooled'),
    'taylor, rho': dict(backprop='window', rho=0.6),
    'secant': dict(WINDOW),
    'secant, rho': dict(WINDOW, rho=0.6, running_stats='pooled'),
    'plus': dict(PLUS),
    'plus, sampled': dict(PLUS, sample_stride=2),
    'plus, growing': dict(PLUS, burnin=6, two_stage=False),
    'plus, taylor, rho': dict(PLUS, compensation='taylor', rho=0.6),
    'plus, naive': dict(pool='exponential', compensation='none'),
    'plain gradient': dict(PLUS, backprop='current', affine=False),
}
STEPS, LENGTH, EMPTY = 10, 3, 5


def batch(kind: str, i: int, sampled: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 + i)
    shape = CONVS[kind][1]
    if sampled:  # enough positions to take every second
        shape = (1200, *shape[1:]) if len(shape) == 2 or min(shape[2:]) < 5 else (2, shape[1], *[26] * len(shape[2:]))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x[:0] if i == EMPTY else x * (1 + 0.3 * (i % 5)) + 0.5 * (i % 5)


def digest(values: torch.Tensor) -> list[float]:
    flat = values.detach().flatten().double()
    vectors = torch.randn(2, len(flat), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (vectors @ flat).tolist()


def layers(kind: str, setting: dict) -> tuple[nn.Module, CBN]:
    torch.manual_seed(0)
    conv = CONVS[kind][0]().double()
    norm = CBN(getattr(conv, 'out_channels', None) or conv.out_features, **dict(dict(buffer_num=LENGTH), **setting))
    norm.double()
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -1, 1)
    return conv, norm


def train(conv: nn.Module, norm: CBN, kind: str, sampled: bool, steps) -> list[list[float]]:
    """For each step: output, gradients, running statistics, windows."""
    parameters = [*conv.parameters(), *norm.parameters()]
    rows = []
    for i in steps:
        x = batch(kind, i, sampled).requires_grad_()
        out = conv_norm(conv, norm, x)
        direction = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(i))
        grads = torch.autograd.grad((out.sin() * direction).sum(), [*parameters, x])
        with torch.no_grad():
            for p, g in zip(parameters, grads):
                p -= 0.05 * g / (g.norm() + 1e-3) * p.norm()
        row = [out, *grads, norm.running_mean, norm.running_var]
        for entry in norm.window_state()['window']['entries']:
            row.append(entry['stats'][:2])
            if entry['patch'] is not None:
                row += [entry['patch'], entry['slope'] / entry.get('own', torch.ones(1)).unsqueeze(1)]
        rows.append(sum(map(digest, row), []))
    return rows


def trajectory(kind: str, name: str) -> list[list[float]]:
    return train(*layers(kind, SETTINGS[name]), kind, 'sampled' in name, range(STEPS))


def answers() -> dict[str, np.ndarray]:
    out = {}
    for kind in CONVS:
        for name in SETTINGS:
            rows = trajectory(kind, name)
            width = max(map(len, rows))
            out[f'{kind}: {name}'] = np.array([row + [np.nan] * (width - len(row)) for row in rows])
    return out


def checkpoint(name: str) -> dict:
    """Weights, window and the steps that follow, of the 3x3 convolution."""
    conv, norm = layers('3x3', SETTINGS[name])
    train(conv, norm, '3x3', False, range(4))
    state = copy.deepcopy(dict(conv=conv.state_dict(), norm=norm.state_dict(), window=norm.window_state()))
    return dict(state, next=train(conv, norm, '3x3', False, range(6, 10)))


if __name__ == '__main__':
    np.savez_compressed(sys.argv[1], **answers())
    torch.save(
        {name: checkpoint(name) for name in ('paper', 'secant', 'plus', 'naive', 'plus, naive')},
        Path(sys.argv[1]).with_name('norm_windows.pth'),
    )
