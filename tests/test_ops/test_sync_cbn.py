"""SyncCBN: four processes with a batch of 1 equal one process with a batch of 4."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from mmdet.ops.norm import CBN, CBNPlus, SyncCBN, conv_norm

RANKS, STEPS = 4, 7
CASES = {
    'no window': dict(buffer_num=0),
    'paper': dict(buffer_num=2),
    'paper, pooled running statistics': dict(buffer_num=2, running_stats='pooled'),
    'naive': dict(buffer_num=2, compensation='none'),
    'window gradient': dict(buffer_num=2, backprop='window'),
    'naive exponential': dict(buffer_num=3, compensation='none', pool='exponential'),
    'burn-in': dict(buffer_num=2, burnin=3),
    # A finer partition has the closer secant (test_window.py), so these are equal where the weights have not moved ...
    'secant, still': dict(buffer_num=2, compensation='secant', backprop='window', lr=0),
    'exponential, still': dict(
        buffer_num=3, compensation='secant', backprop='window', pool='exponential', running_stats='pooled', lr=0
    ),
    # ... and to second order in the weights' step where they have
    'secant, moving': dict(buffer_num=2, compensation='secant', backprop='window', lr=0.002, tolerance=5e-3),
}
#: how many of a batch's images each process has; a batch without any leaves the window alone
SPLITS = [(1, 1, 1, 1), (1, 1, 1, 1), (2, 0, 1, 1), (1, 1, 1, 1), (0, 0, 0, 0), (0, 3, 0, 1), (1, 1, 1, 1)]


def _batch(i):
    x = torch.randn(4, 3, 5, 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
    return x * (1 + 0.2 * i) + 0.3 * i


def _loss(out, x):
    return (out.sin() * x.cos().mean(1, keepdim=True)).sum()


def _train(settings, layer, rank=None):
    """Outputs, gradients, running statistics of each step; of this process's images, or of all in one process."""
    settings = dict(settings)
    lr, _ = settings.pop('lr', 0.1), settings.pop('tolerance', None)
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 6, 3, padding=1).double(), layer(6, **settings).double()
    parameters = [*conv.parameters(), *norm.parameters()]
    seen = []
    for i, split in enumerate(SPLITS):
        x = _batch(i)[: sum(split)]
        if rank is not None:
            x = x.split(split)[rank]
        x = x.clone().requires_grad_()
        out = conv_norm(conv, norm, x)
        grads = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(
                [*parameters, x], torch.autograd.grad(_loss(out, x.detach()), [*parameters, x], allow_unused=True)
            )
        ]
        if rank is not None:
            for g in grads[:-1]:
                dist.all_reduce(g)
        with torch.no_grad():
            for p, g in zip(parameters, grads):
                p -= lr * g / (g.norm() + 1e-3)
        seen.append((out.detach(), grads, norm.running_mean.clone(), norm.running_var.clone(), norm.step))
    return seen


def _ddp(rank, broadcast_buffers):
    """Weights and window of a small model under DistributedDataParallel, each process with its own images."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), CBNPlus(6, buffer_num=2)

        def forward(self, x):
            return conv_norm(self.conv, self.norm, x)

    net = Net()
    model = nn.parallel.DistributedDataParallel(net, broadcast_buffers=broadcast_buffers)
    opt = torch.optim.SGD(model.parameters(), 0.05)
    for i in range(4):
        opt.zero_grad()
        model(_batch(i)[rank : rank + 1].float()).sin().sum().backward()
        opt.step()
    return dict(weight=net.conv.weight.detach(), grad=net.conv.weight.grad, window=net.norm.window_state())


def _rank(rank, folder):
    os.environ['OMP_NUM_THREADS'] = '1'
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=RANKS)
    results = {name: _train(case, SyncCBN, rank) for name, case in CASES.items()}
    results |= {f'ddp {on}': _ddp(rank, on) for on in (True, False)}
    torch.save(results, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    mp.spawn(_rank, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f'{rank}.pt') for rank in range(RANKS)]


@pytest.mark.parametrize('name', CASES)
def test_four_processes_equal_one(name, ranks):
    tolerance = CASES[name].get('tolerance', 1e-9)
    close = dict(rtol=tolerance, atol=tolerance)
    alone = _train(CASES[name], CBN)
    for i, (out, grads, mean, var, step) in enumerate(alone):
        parts = [rank[name][i] for rank in ranks]
        torch.testing.assert_close(torch.cat([p[0] for p in parts]), out, **close)
        torch.testing.assert_close(torch.cat([p[1][-1] for p in parts]), grads[-1], **close)
        for part in parts:
            torch.testing.assert_close((part[1][:-1], part[2], part[3]), (grads[:-1], mean, var), **close)
            assert part[4] == step


def test_in_one_process_it_is_cbn():
    a, b = _train(CASES['paper'], SyncCBN), _train(CASES['paper'], CBN)
    assert all(torch.equal(x[0], y[0]) for x, y in zip(a, b))


@pytest.mark.parametrize('broadcast_buffers', [True, False])
def test_under_data_parallel_weights_stay_equal_and_windows_are_each_processs_own(ranks, broadcast_buffers):
    first, *others = [rank[f'ddp {broadcast_buffers}'] for rank in ranks]
    for other in others:
        assert torch.equal(first['weight'], other['weight']) and torch.equal(first['grad'], other['grad'])
        assert other['window']['step'] == 4
        assert not torch.equal(
            first['window']['window']['entries'][0]['stats'], other['window']['window']['entries'][0]['stats']
        )
    assert first['grad'].any()
