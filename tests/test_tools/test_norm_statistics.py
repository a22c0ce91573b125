"""tools/analysis_tools/norm_statistics.py and the statistics that it exchanges."""

import pytest
import torch
from conftest import load_tool
from torch import nn

from mmdet.analysis.norm_statistics import between_shares, own_statistics, recompute_statistics
from mmdet.apis import init_detector
from mmdet.ops.norm import CBN


class Model(nn.Module):
    """Of a detector's interface what the statistics need."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.last = CBN(4, buffer_num=2, running_stats='pooled')
        self.empty = nn.BatchNorm2d(4)

    def data_preprocessor(self, batch, training):
        assert training
        return dict(inputs=batch)

    def forward(self, inputs, mode='tensor'):
        self.middle = self.norm(self.conv(inputs))
        self.empty(self.middle[:0])
        return self.last(self.middle, self.middle, self.same)

    @property
    def same(self):
        conv = nn.Conv2d(4, 4, 1, bias=False).double()
        conv.weight.data = torch.eye(4).double()[..., None, None]
        return conv


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().double()


def test_what_a_norm_leaves_of_images_differences():
    class Norms(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.unused = nn.BatchNorm2d(4), nn.GroupNorm(4, 4), nn.BatchNorm2d(4)

        def data_preprocessor(self, batch, training):
            return dict(inputs=batch)

        def forward(self, inputs, mode):
            return self.second(self.first(inputs))

    within, offsets = torch.randn(6, 4, 5, 5).double(), torch.randn(6, 4, 1, 1).double() * 3
    images = within - within.mean((2, 3), keepdim=True) + offsets
    between = offsets.flatten(1).var(0, correction=0)
    expected = (between / (between + images.var((2, 3), correction=0).mean(0))).mean().item()
    shares = between_shares(Norms().double(), [images[:4], images[4:]])
    assert set(shares) == {'first', 'second'}
    assert shares['first'] == pytest.approx((expected, expected)) and expected > 0.7
    assert shares['second'][0] == pytest.approx(expected) and shares['second'][1] < 1e-12


def test_recomputed(model):
    batches = [torch.randn(n, 3, 8, 9).double() * scale + scale for n, scale in ((2, 1.0), (3, 2.0), (1, 0.5))]
    assert recompute_statistics(model, batches) == 3
    outputs = [model.conv(batch).transpose(0, 1).flatten(1) for batch in batches]
    # the batches weigh the same: each is resampled to as many positions
    joined = torch.cat([y.repeat(1, 6 * 42 // y.shape[1]) for y in outputs], 1)
    torch.testing.assert_close(model.norm.running_mean, joined.mean(1))
    torch.testing.assert_close(model.norm.running_var, joined.var(1, correction=0))
    # the layer after it sees batches that are normalized each by itself
    torch.testing.assert_close(model.last.running_mean, torch.zeros(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(model.last.running_var, torch.ones(4).double(), atol=1e-4, rtol=0)
    assert model.empty.running_mean.eq(0).all() and model.empty.running_var.eq(1).all()
    assert not model.norm._forward_hooks and model.training
    assert len(model.last.window) == 0


def test_own(model):
    x = torch.randn(2, 3, 8, 9).double()
    model.eval()
    before = model(x)
    with own_statistics(model):
        own = model(x)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    y = model.conv(x)
    y = (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(own, y, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match='no norm with running statistics'):
        recompute_statistics(nn.Sequential(nn.GroupNorm(2, 4)), [])


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/analysis_tools/norm_statistics.py')


def test_command_line(tool, tiny_config, tmp_path, capsys):
    checkpoint = tmp_path / 'model.pth'
    torch.save(init_detector(str(tiny_config), device='cpu').state_dict(), checkpoint)
    command = [str(tiny_config), str(checkpoint), '--work-dir', str(tmp_path / 'run')]
    tool.main([*command, '--batches', '2'])
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.partition(':')[0] for line in lines] == ['running', 'batch', 'precise, of 2 training batches of 2']
    assert all('bbox_mAP 0.' in line and 'segm_mAP 0.' in line for line in lines)
    tool.main([*command, '--statistics', 'batch'])
    assert capsys.readouterr().out.splitlines()[-1].startswith('batch: bbox_mAP')
    with pytest.raises(SystemExit):
        tool.parse_args([*command, '--batches', '0'])
    assert '--batches: 0: must be a whole number, 1 or more' in capsys.readouterr().err
