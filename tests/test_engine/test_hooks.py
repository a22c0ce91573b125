"""Hooks on a small model with mmengine's runner."""

import mmap
import time
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from mmdet.engine.hooks import CBNHook, CheckpointCheckHook, cbn_hook
from mmdet.engine.hooks.resource_hook import process_start, resident_bytes
from mmdet.ops.norm import CBN, conv_norm


class Net(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.norm = CBN(channels, buffer_num=2, burnin=2, by_epoch=True)

    def forward(self, x):
        return conv_norm(self.conv, self.norm, x)


def runner_of(model, resume=False, iteration=0):
    return SimpleNamespace(
        model=model,
        train_dataloader=range(7),
        _resume=resume,
        iter=iteration,
        _load_from='x.pth',
        work_dir='w',
        logger=MMLogger.get_instance('test'),
        _train_loop=None,
    )


def test_cbn_hook_tells_epoch_length_and_name():
    net = Net()
    CBNHook().before_train(runner_of(net))
    assert net.norm.burnin_steps == 14 and net.norm.layer_name == 'norm'


def test_cbn_hook_keeps_the_window_over_a_resume():
    torch.manual_seed(0)
    net, hook = Net(), CBNHook()
    hook.before_train(runner_of(net))
    net.norm.step = 14
    for _ in range(3):
        net(torch.randn(2, 3, 6, 6)).sum().backward()
    checkpoint = dict(state_dict=net.state_dict())
    hook.before_save_checkpoint(runner_of(net), checkpoint)

    fresh, hook = Net(), CBNHook()
    hook.after_load_checkpoint(runner_of(fresh, resume=True), checkpoint)
    fresh.load_state_dict(checkpoint['state_dict'])
    hook.before_train(runner_of(fresh, resume=True))
    x = torch.randn(2, 3, 6, 6)
    assert fresh.norm.pools and torch.equal(net(x), fresh(x))

    tuned, hook = Net(), CBNHook()  # load_from without resume: other training, own window
    hook.after_load_checkpoint(runner_of(tuned), checkpoint)
    hook.before_train(runner_of(tuned))
    assert tuned.norm.step == 0 and not tuned.norm.window


def filled(steps):
    """A net after some steps, its window in it."""
    net = Net()
    CBNHook().before_train(runner_of(net))
    net.norm.step = 14
    for _ in range(steps):
        net(torch.randn(2, 3, 6, 6)).sum().backward()
    return net


def restored(windows, monkeypatch, rank):
    monkeypatch.setattr(cbn_hook, 'get_rank', lambda: rank)
    net, hook = Net(), CBNHook()
    hook.after_load_checkpoint(runner_of(net), dict(cbn_window=windows))
    hook.before_train(runner_of(net, resume=True, iteration=99))
    return net.norm


def test_each_process_gets_its_own_window(monkeypatch):
    nets = [filled(1), filled(2)]
    states = [[cbn_hook.to_cpu(net.norm.window_state()) for _ in range(2)] for net in nets]
    monkeypatch.setattr(cbn_hook, 'all_gather_object', lambda own: [own, states[1][0]])
    hook, checkpoint = CBNHook(), {}
    hook.collect_checkpoint(runner_of(nets[0]))
    hook.before_save_checkpoint(runner_of(nets[0]), checkpoint)
    windows = checkpoint['cbn_window']
    assert [list(window) for window in windows] == [['norm'], ['norm']]
    layers = [restored(windows, monkeypatch, rank) for rank in range(3)]
    assert [layer.step for layer in layers] == [15, 16, 15]
    assert layers[0].pools and layers[1].pools and not layers[2].pools
    old = restored(windows[0], monkeypatch, 0)  # one dict: as it was written before
    assert old.step == 15 and old.pools


def test_only_the_first_process_keeps_all_windows(monkeypatch):
    monkeypatch.setattr(cbn_hook, 'is_main_process', lambda: False)
    assert cbn_hook.gather_windows(Net()) == []


def test_tensors_move_to_the_cpu_whatever_they_are_in():
    Pair = namedtuple('Pair', 'a b')
    there = torch.zeros(2, device='meta')  # stands for a GPU
    seen = []
    state = dict(step=3, window=[Pair(there, (there, 'x'))], more=dict(none=None, t=torch.ones(1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, 'cpu', lambda self: seen.append(self) or torch.full(self.shape, 7.0))
        moved = cbn_hook.to_cpu(state)
    assert len(seen) == 3 and type(moved['window'][0]) is Pair and moved['window'][0].b[1] == 'x'
    assert moved['step'] == 3 and moved['more']['none'] is None and moved['more']['t'].item() == 7


def test_resume_without_a_window_does_not_burn_in_again():
    net, hook = Net(), CBNHook()
    hook.after_load_checkpoint(runner_of(net), dict(state_dict={}))
    hook.before_train(runner_of(net, resume=True, iteration=50))
    assert net.norm.step == 50 and net.norm.window_length(50) == 2


def test_checkpoint_of_another_model_is_refused_with_its_keys():
    other = {**Net(5).state_dict(), 'head.fc.weight': torch.zeros(1)}
    other.pop('norm.running_mean')
    with pytest.raises(ValueError, match='x.pth.*another model(.|\n)*missing.*running_mean(.|\n)*unexpected.*head.fc'):
        CheckpointCheckHook().after_load_checkpoint(runner_of(Net()), dict(state_dict=other))
    with pytest.raises(ValueError, match='no weights'):
        CheckpointCheckHook().after_load_checkpoint(runner_of(Net()), dict(state_dict=dict(a=3)))
    CheckpointCheckHook().after_load_checkpoint(runner_of(Net()), dict(state_dict=Net().state_dict()))


def test_resources_are_those_of_this_process():
    assert 0 < time.time() - process_start() < 3600
    before = resident_bytes()
    block = mmap.mmap(-1, 2**26)  # pages that no allocator has at hand
    block.write(bytes(2**26))
    assert resident_bytes() - before > 50 * 2**20
    block.close()
