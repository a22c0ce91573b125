"""How many processes make sense."""

import os

import pytest
import torch

from mmdet.run.launch import check_processes
from mmdet.run.prepare import pick_backend


def test_number_of_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    assert check_processes('2') == 2
    with pytest.raises(ValueError, match='2 GPUs'):
        check_processes('3')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    assert check_processes(str(os.cpu_count())) == os.cpu_count()
    for bad in ('0', '-1', '1.5', '', str(5 * os.cpu_count())):
        with pytest.raises(ValueError, match=f'GPUS={bad}'):
            check_processes(bad)


def test_backend(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert pick_backend('nccl') == pick_backend('auto') == 'gloo'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert pick_backend('auto') == 'nccl' and pick_backend('gloo') == 'gloo'
