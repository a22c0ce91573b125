"""Hooks on a small model with mmengine's runner."""
import mmap
import time
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from mmdet.engine.hooks import CBNHook, CheckpointCheckHook, compare_checkpoint
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
    return SimpleNamespace(model=model, train_dataloader=range(7), _resume=resume, iter=iteration, _load_from='x.pth',
                           work_dir='w', logger=MMLogger.get_instance('test'), _train_loop=None)


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


def test_resume_without_a_window_does_not_burn_in_again():
    net, hook = Net(), CBNHook()
    hook.after_load_checkpoint(runner_of(net), dict(state_dict={}))
    hook.before_train(runner_of(net, resume=True, iteration=50))
    assert net.norm.step == 50 and net.norm.window_length(50) == 2


def test_checkpoint_of_another_model_is_refused_with_its_keys():
    other = {**Net(5).state_dict(), 'head.fc.weight': torch.zeros(1)}
    other.pop('norm.running_mean')
    differences = compare_checkpoint(Net(), other)
    assert differences['missing'] == ['norm.running_mean'] and differences['unexpected'] == ['head.fc.weight']
    assert any(text.startswith('conv.weight (5, 3, 3, 3), the model has (4, 3, 3, 3)')
               for text in differences['mismatched'])
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
