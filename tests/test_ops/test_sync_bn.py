"""SyncBN on the CPU: two processes equal BN on the joined batch."""

import os
import tempfile
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from mmdet.engine.runner import CPUDistributedDataParallel
from mmdet.ops.norm import SyncBN

COUNTS = (1, 3)  # ranks need not hold equally many


def _batch():
    return torch.randn(sum(COUNTS), 5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 3


def _loss(z, x):
    return (z * x.cos()).sum()


def _rank(rank, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.set_num_threads(1)
    CPUDistributedDataParallel(SyncBN(5))  # torch's refuses it
    norm = SyncBN(5).double()
    x = _batch().split(COUNTS)[rank].clone().requires_grad_()
    z = norm(x)
    _loss(z, x.detach()).backward()
    torch.save((z.detach(), x.grad, norm.weight.grad, norm.state_dict()), f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def test_two_processes_equal_the_joined_batch():
    bn = nn.BatchNorm2d(5).double()
    x = _batch().requires_grad_()
    z = bn(x)
    _loss(z, x.detach()).backward()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault('OMP_NUM_THREADS', '1')
        mp.spawn(_rank, (folder,), nprocs=2)
        parts = [torch.load(f'{folder}/{rank}.pt') for rank in range(2)]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), z.detach())
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), x.grad)
    torch.testing.assert_close(sum(p[2] for p in parts), bn.weight.grad)
    for part in parts:
        torch.testing.assert_close(part[3], dict(bn.state_dict()), check_dtype=False)


@pytest.mark.parametrize('group', [False, True])
def test_alone_it_is_bn(group, tmp_path):
    if group:
        dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        _check_alone()
    finally:
        if group:
            dist.destroy_process_group()


def _check_alone():
    bn, norm = nn.BatchNorm2d(5).double(), SyncBN(5).double()
    for train in (True, False):
        torch.testing.assert_close(norm.train(train)(_batch()), bn.train(train)(_batch()))


def test_says_once_that_there_is_no_cuda():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('default')
        for _ in range(2):
            SyncBN(5).double()(_batch())
    assert len(said) == 1 and 'no CUDA' in str(said[0].message)
