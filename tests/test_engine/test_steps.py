"""Losses are the mean over ranks; what is not finite does not reach weights, statistics or checkpoints."""

import re

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from mmdet.engine import DetRunner
from mmdet.ops.norm import CBNPlus, conv_norm
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample


@DATASETS.register_module()
class Numbered(Dataset):
    """Images of noise; number ``bad`` has the value ``value`` in a pixel."""

    def __init__(self, bad=-1, value='nan', length=8):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(length, 3, 8, 8, generator=generator)
        if bad >= 0:
            self.images[bad, 0, 0, 0] = float(value)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return dict(inputs=self.images[index], data_samples=DetDataSample(metainfo=dict(img_path=f'{index}.jpg')))


@MODELS.register_module()
class Normed(BaseModel):
    """A convolution, CBN+ and BN behind it; ``loss_odd`` has a finite value and a gradient that is none at ``at``."""

    def __init__(self, infinite_gradient=False):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1))
        self.conv, self.norm = nn.Conv2d(4, 4, 3), CBNPlus(4, buffer_num=3)
        self.bn = nn.BatchNorm2d(4)
        self.infinite_gradient = infinite_gradient

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = conv_norm(self.conv, self.norm, self.first(torch.stack(inputs)))
        losses = dict(loss_a=self.bn(x).square().mean(), loss_b=x.abs().mean(), acc=x.mean())
        if self.infinite_gradient:  # the root's slope at 0
            losses['loss_odd'] = (self.conv.bias * 0).sum().abs().sqrt()
        return losses


def make(work_dir, model=None, lr=0.1, skip=0, epochs=2, resume=False, batch=2, **dataset):
    return DetRunner(
        model=dict(type='Normed', **(model or {})),
        work_dir=str(work_dir),
        resume=resume,
        train_dataloader=dict(
            batch_size=batch,
            dataset=dict(type='Numbered', **dataset),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=lr, momentum=0.9)),
        custom_hooks=[dict(type='CBNHook'), dict(type='CheckpointCheckHook')],
        default_scope='mmdet',
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        randomness=dict(seed=0),
        cfg=dict(skip_nonfinite=skip),
        experiment_name=re.sub(r'\W', '_', str(work_dir)),
    )


def state(runner):
    norm = runner.model.norm
    entries = norm.window_state()['window']['entries']
    return {**runner.model.state_dict(), **{str(i): entry['stats'] for i, entry in enumerate(entries)}}


@pytest.mark.parametrize('value', ['nan', 'inf'])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, value):
    runner = make(tmp_path, bad=5, value=value)
    with pytest.raises(
        FloatingPointError,
        match=r'iteration 3: the loss is not finite: loss_a nan, loss_b nan'
        r'.*; images 4.jpg, 5.jpg; first module .*: data_preprocessor\. No checkpoint.*skip_nonfinite',
    ):
        runner.train()
    assert all(value.isfinite().all() for value in runner.model.parameters())
    assert not list(tmp_path.glob('*.pth'))


def test_the_first_module_that_overflows_is_named(tmp_path):
    runner = make(tmp_path)
    torch.nn.init.constant_(runner.model.first[0].weight, 3e38)
    with pytest.raises(FloatingPointError, match=r'iteration 1: .*images 0.jpg, 1.jpg; first module .*: first\.0\. '):
        runner.train()


def test_a_gradient_that_is_not_finite_ends_the_run(tmp_path):
    runner = make(tmp_path, model=dict(infinite_gradient=True))
    with pytest.raises(
        FloatingPointError,
        match=r'iteration 1: the gradient is not finite.*loss_odd 0; images 0.jpg, '
        r'1.jpg; first module .*: none',
    ):
        runner.train()
    assert all(value.isfinite().all() for value in runner.model.parameters())


def test_a_skipped_step_leaves_nothing_behind(tmp_path):
    runner = make(tmp_path / 'a', bad=5, skip=1, epochs=1)
    runner.train()
    # the same without that batch: the iterations before and after it, on the same images
    other = make(tmp_path / 'b', epochs=1)
    step = other.train_loop.run_iter

    def without(idx, batch):
        if idx == 2:
            other.train_loop._iter += 1
        else:
            step(idx, batch)

    other.train_loop.run_iter = without
    other.train()
    one, two = state(runner), state(other)
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert (tmp_path / 'a/epoch_1.pth').is_file()


def test_skipping_is_bounded_over_the_whole_run(tmp_path):
    with pytest.raises(FloatingPointError, match=r'1 such steps were left out before'):
        make(tmp_path, bad=5, skip=1).train()  # once in each epoch
    assert (tmp_path / 'epoch_1.pth').is_file()
    with pytest.raises(FloatingPointError, match='iteration 7.*1 such steps'):
        make(tmp_path, bad=5, skip=1, resume=True).train()


@pytest.mark.parametrize('skip', [-1, 0.5, True, 'a'])
def test_a_number_of_steps(tmp_path, skip):
    with pytest.raises(ValueError, match='skip_nonfinite: must be a number of steps'):
        make(tmp_path, skip=skip).train()


@pytest.mark.parametrize('where', ['weight', 'running_var', 'momentum', 'window'])
def test_no_checkpoint_holds_what_is_no_number(tmp_path, where):
    runner = make(tmp_path)

    def spoil(idx=None, **kwargs):
        if runner.iter != 3:
            return
        with torch.no_grad():
            if where == 'momentum':
                next(iter(runner.optim_wrapper.optimizer.state.values()))['momentum_buffer'].fill_(float('inf'))
            elif where == 'window':
                runner.model.norm.window.entries[-1].mean.fill_(float('nan'))
            else:
                dict(runner.model.norm.named_parameters(), **dict(runner.model.norm.named_buffers()))[where].fill_(
                    float('nan')
                )

    for hook in runner.hooks:
        if type(hook).__name__ == 'RuntimeInfoHook':
            hook.after_train_iter = lambda *args, **kwargs: spoil()
    with pytest.raises(FloatingPointError, match='not written.*(norm|optimizer|cbn_window).*Go on from the one before'):
        runner.train()
    assert not list(tmp_path.glob('*.pth'))


def test_constants_that_are_not_finite_may_stay(tmp_path):
    runner = make(tmp_path, epochs=1)
    runner.model.register_buffer('mask', torch.tensor([0.0, -torch.inf]))
    runner.train()
    assert (tmp_path / 'epoch_1.pth').is_file()
