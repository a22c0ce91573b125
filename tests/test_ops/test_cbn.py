"""CBN against autograd on the paper's formulas, in float64, and its corners."""

import copy
import io

import pytest
import torch
from reference.corner_convs import CONVS
from reference.paper_cbn import PaperCBN
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmdet.ops.norm import CBN, build_norm_layer, conv_norm

SETTINGS = {
    'paper': dict(),
    'window': dict(compensation='secant', backprop='window'),
    'exponential': dict(compensation='secant', backprop='window', pool='exponential', running_stats='pooled'),
    'sampled': dict(sample_stride=2),
    'naive': dict(compensation='none'),
}
every_setting = pytest.mark.parametrize('setting', SETTINGS)


def make(kind, dtype=torch.float64, seed=0, **norm):
    torch.manual_seed(seed)
    conv = CONVS[kind][0]().to(dtype)
    channels = getattr(conv, 'out_channels', None) or conv.out_features
    return conv, CBN(channels, **norm).to(dtype)


def batch(kind, i, dtype=torch.float64):
    generator = torch.Generator().manual_seed(100 + i)
    x = torch.randn(CONVS[kind][1], generator=generator, dtype=dtype)
    return x * (1 + 0.3 * (i % 8)) + 0.5 * (i % 8)  # batches that differ


@pytest.mark.parametrize('rho', [1.0, 0.4])
@pytest.mark.parametrize('kind', CONVS)
def test_equals_the_paper_over_steps(kind, rho):
    conv, norm = make(kind, buffer_num=3, rho=rho)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -1, 1)
    other = copy.deepcopy(conv)
    paper = PaperCBN(norm.num_features, 3, rho, dtype=torch.float64)
    paper.load_state_dict(dict(weight=norm.weight, bias=norm.bias))
    mine, theirs = [*conv.parameters(), *norm.parameters()], [*other.parameters(), *paper.parameters()]
    for i in range(20):
        x1, x2 = batch(kind, i).requires_grad_(), batch(kind, i).requires_grad_()
        out, want = conv_norm(conv, norm, x1), paper(other, x2)
        torch.testing.assert_close(out, want, rtol=1e-9, atol=1e-9)
        direction = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(i))
        got = torch.autograd.grad((out.sin() * direction).sum(), [*mine, x1])
        expected = torch.autograd.grad((want.sin() * direction).sum(), [*theirs, x2])
        for a, b in zip(got, expected):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            for p, q, g in zip(mine, theirs, got):
                p -= 0.05 * g / (g.norm() + 1e-3)
                q.copy_(p)
    assert len(norm.window) == 3


@pytest.mark.parametrize('length', [0, 3])
def test_is_bn_in_burnin_and_without_a_window(length):
    conv, norm = make('bias', buffer_num=length, burnin=4 if length else 0)
    bn = nn.BatchNorm2d(6).double()
    for i in range(4):
        x = batch('bias', i)
        w1, w2 = (
            torch.autograd.grad((z * z.sin()).sum(), conv.weight)[0] for z in (conv_norm(conv, norm, x), bn(conv(x)))
        )
        torch.testing.assert_close(w1, w2, rtol=1e-9, atol=1e-9)
    for name in ('running_mean', 'running_var', 'num_batches_tracked'):
        torch.testing.assert_close(getattr(norm, name), getattr(bn, name))
    x = batch('bias', 9)
    if length:
        assert not torch.allclose(conv_norm(conv, norm, x), bn(conv(x)), atol=1e-3)
    torch.testing.assert_close(conv_norm(conv.eval(), norm.eval(), x).shape, bn(conv(x)).shape)
    bn.eval()
    norm.load_state_dict(bn.state_dict())
    torch.testing.assert_close(conv_norm(conv, norm, x), bn(conv(x)))


def test_burnin_fills_the_window_and_two_stage_false_ramps_it():
    conv, norm = make('1x1', buffer_num=2, burnin=4)
    lengths = []
    for i in range(6):
        lengths.append(norm.pools)
        conv_norm(conv, norm, batch('1x1', i)).sum().backward()
    assert lengths == [False] * 4 + [True] * 2 and len(norm.window) == 2

    norm = CBN(6, buffer_num=4, burnin=8, two_stage=False)
    assert [norm.window_length(i) for i in range(10)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_burnin_by_epoch_needs_the_epochs_length():
    conv, norm = make('1x1', buffer_num=2, burnin=2, by_epoch=True)
    with pytest.raises(RuntimeError, match='CBNHook'):
        conv_norm(conv, norm, batch('1x1', 0))
    norm.epoch_length = 5
    conv_norm(conv, norm, batch('1x1', 0))
    assert norm.burnin_steps == 10


def test_window_advances_once_per_backward():
    conv, norm = make('3x3', buffer_num=5)
    x = batch('3x3', 0)
    conv_norm(conv, norm, x)
    with torch.no_grad():
        conv_norm(conv, norm, x)
    norm.eval()
    conv_norm(conv, norm, x).sum().backward()
    assert len(norm.window) == 0 and norm.step == 0
    norm.train()
    loss = conv_norm(conv, norm, x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert len(norm.window) == 1 and norm.step == 1


@pytest.mark.parametrize('pool', ['sliding', 'exponential'])
def test_second_backward_through_a_kept_graph_gives_the_same(pool):
    conv, norm = make('3x3', buffer_num=2, backprop='window', pool=pool)
    for i in range(3):
        loss = conv_norm(conv, norm, batch('3x3', i)).pow(3).sum()
        first, second = (torch.autograd.grad(loss, conv.weight, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second)
    assert len(norm.window) and norm.step == 3


@pytest.mark.parametrize('reentrant', [True, False])
def test_activation_checkpointing_changes_nothing(reentrant):
    outcomes = []
    for use in (True, False):
        conv, norm = make('3x3', buffer_num=2)
        grads = []
        for i in range(4):
            x = batch('3x3', i).requires_grad_()
            run = lambda t: conv_norm(conv, norm, t).sin()  # noqa: E731
            out = checkpoint(run, x, use_reentrant=reentrant) if use else run(x)
            conv.zero_grad()
            out.square().sum().backward()
            grads += [x.grad, conv.weight.grad.clone()]
        outcomes.append((grads, norm.running_mean, norm.running_var, norm.step, len(norm.window)))
    torch.testing.assert_close(outcomes[0], outcomes[1])


def test_gradient_accumulation_is_exact():
    """Between optimizer steps the compensation is exact: the pool is the statistics of the joined batches."""
    conv, norm = make('3x3', buffer_num=2)
    parts = [batch('3x3', i) for i in range(3)]
    for x in parts:
        out = conv_norm(conv, norm, x)
        out.sum().backward()
    joined = nn.BatchNorm2d(6).double()(conv(torch.cat(parts)))[-2:]
    torch.testing.assert_close(out, joined, rtol=1e-9, atol=1e-9)


@every_setting
def test_no_position_and_one_position(setting):
    conv, norm = make('3x3', buffer_num=2, **SETTINGS[setting])
    for _ in range(2):
        conv_norm(conv, norm, batch('3x3', 0)).sum().backward()
    before, running = norm.window_state(), norm.running_mean.clone()
    conv.zero_grad(), norm.zero_grad()
    empty = conv_norm(conv, norm, torch.zeros(0, 4, 5, 5, dtype=torch.float64))
    empty.sum().backward()
    assert empty.shape == (0, 6, 5, 5) and norm.step == before['step'] and torch.equal(norm.running_mean, running)
    assert all(
        torch.equal(a[key], b[key])
        for a, b in zip(norm.window_state()['window']['entries'], before['window']['entries'])
        for key in ('stats', 'weight')
    )
    assert all(p.grad is not None and not p.grad.any() for p in [conv.weight, norm.weight, norm.bias])

    conv, norm = make('1x1', buffer_num=2, **SETTINGS[setting])
    for i in range(3):
        x = batch('1x1', i)[:1, :, :1, :1].requires_grad_()
        out = conv_norm(conv, norm, x)
        out.sum().backward()
        assert out.isfinite().all() and x.grad.isfinite().all() and norm.running_var.isfinite().all()
        assert conv.weight.grad.isfinite().all()


@every_setting
def test_constant_channel_stays_finite(setting):
    conv, norm = make('bias', dtype=torch.float32, buffer_num=2, **SETTINGS[setting])
    with torch.no_grad():
        conv.weight[0] = 0
    for i in range(5):
        out = conv_norm(conv, norm, batch('bias', i, torch.float32))
        conv.zero_grad()
        out.square().sum().backward()
        assert out.isfinite().all() and conv.weight.grad.isfinite().all()
        with torch.no_grad():  # it comes to life
            conv.weight -= 1e-3 * conv.weight.grad


@every_setting
@pytest.mark.parametrize('value', [float('inf'), float('nan'), 1e38])
def test_overflowed_batch_is_left_out(setting, value):
    conv, norm = make('3x3', dtype=torch.float32, buffer_num=3, **SETTINGS[setting])
    twin, clean = copy.deepcopy(conv), copy.deepcopy(norm)
    for i in range(6):
        x = batch('3x3', i, torch.float32)
        if i == 2:
            bad = x.clone()
            bad[0, 0, 2, 2] = value
            conv_norm(conv, norm, bad).sum().backward()
            conv.zero_grad(), norm.zero_grad()
        out, want = conv_norm(conv, norm, x), conv_norm(twin, clean, x)
        (out.square().sum() + want.square().sum()).backward()
        if i < 3 and setting != 'exponential':  # from then on the overflowed entry takes one place of the window
            torch.testing.assert_close(out, want)
        assert out.isfinite().all() and conv.weight.grad.isfinite().all()
    assert norm.running_mean.isfinite().all() and norm.running_var.isfinite().all()
    for _ in range(30):  # the window forgets it
        for c, n in ((conv, norm), (twin, clean)):
            conv_norm(c, n, x).sum().backward()
    torch.testing.assert_close(conv_norm(conv, norm, x), conv_norm(twin, clean, x), rtol=1e-3, atol=1e-3)


@every_setting
def test_a_pixel_that_no_patch_holds_does_not_count(setting):
    conv, norm = make('stride_1x1', buffer_num=3, **SETTINGS[setting])
    twin, clean = copy.deepcopy(conv), copy.deepcopy(norm)
    for i in range(6):
        x = batch('stride_1x1', i)
        dirty = x.clone()
        dirty[0, 0, 1, 1] = float('nan')
        out, want = conv_norm(conv, norm, dirty), conv_norm(twin, clean, x)
        torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)
        (out.sin().sum() + want.sin().sum()).backward()


@pytest.mark.parametrize('setting', [name for name in SETTINGS if name != 'naive'])  # which follows no weights
def test_window_is_dropped_when_weights_jump(setting):
    """Weights loaded into the convolution alone or initialized anew: the earlier batches say nothing of them."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 32, 3, padding=1), CBN(32, buffer_num=3, **SETTINGS[setting])
    bn = nn.BatchNorm2d(32)
    for _ in range(4):
        conv_norm(conv, norm, torch.randn(2, 8, 9, 9) + 1).sum().backward()
    conv.reset_parameters()
    for i in range(2):
        x = torch.randn(2, 8, 9, 9) + 1
        out = conv_norm(conv, norm, x)
        assert torch.allclose(out, bn(conv(x)), atol=1e-5) == (i == 0)
        out.sum().backward()


@pytest.mark.parametrize('inside', [False, True])  # the backward in the autocast region: advised against, but seen
@pytest.mark.parametrize('setting', ['paper', 'exponential'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_keeps_float32_statistics(dtype, setting, inside):
    conv, norm = make('3x3', dtype=torch.float32, buffer_num=2, **SETTINGS[setting])
    reference = copy.deepcopy(conv), copy.deepcopy(norm)
    for i in range(4):
        x = batch('3x3', i, torch.float32)
        with torch.autocast('cpu', dtype):
            out = conv_norm(conv, norm, x)
            if inside:
                out.float().square().sum().backward()
        if not inside:
            out.float().square().sum().backward()
        want = conv_norm(*reference, x)
        want.square().sum().backward()
        torch.testing.assert_close(out.float(), want, rtol=0.05, atol=0.05)
    assert out.dtype == dtype
    for entry, want in zip(norm.window.entries, reference[1].window.entries):
        assert all(t.dtype == torch.float32 for t in entry[1:])
        torch.testing.assert_close(entry[1:3], want[1:3], rtol=0.02, atol=0.02)


@pytest.mark.parametrize('setting', ['paper', 'naive', 'exponential'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision(dtype, setting):
    """Parameters and buffers too: it trains as BN does, with the window in float32, and resumes."""
    conv, norm = make('bias', dtype=dtype, buffer_num=2, **SETTINGS[setting])
    reference, plain = copy.deepcopy(conv).float(), copy.deepcopy(norm).float()
    for i in range(4):
        x = batch('bias', i).to(dtype)
        out, want = conv_norm(conv, norm, x), conv_norm(reference, plain, x.float())
        (out.float().square().sum() + want.square().sum()).backward()
        torch.testing.assert_close(out.float(), want, rtol=0.05, atol=0.05)
    assert out.dtype == conv.weight.grad.dtype == norm.weight.grad.dtype == norm.running_var.dtype == dtype
    assert all(t.dtype == torch.float32 for entry in norm.window.entries for t in entry[1:] if t is not None)
    assert conv_norm(conv, norm.eval(), x).dtype == dtype


def test_shift_much_larger_than_spread_does_not_cancel():
    conv, norm = make('1x1', dtype=torch.float32, buffer_num=2)
    exact, exact_norm = copy.deepcopy(conv).double(), CBN(6, buffer_num=2).double()
    for _i in range(3):
        x = batch('1x1', 0) + 3000
        out, want = conv_norm(conv, norm, x.float()), conv_norm(exact, exact_norm, x)
        (out.sum().double() + want.sum()).backward()
    torch.testing.assert_close(out.double(), want, rtol=0.02, atol=0.02)


def test_frozen_conv_and_frozen_norm():
    conv, norm = make('3x3', buffer_num=2)
    conv.requires_grad_(False)
    for i in range(3):
        conv_norm(conv, norm, batch('3x3', i)).sum().backward()
    assert len(norm.window) == 2 and conv.weight.grad is None
    norm.requires_grad_(False)
    conv.requires_grad_(True)
    conv_norm(conv, norm, batch('3x3', 4)).square().sum().backward()
    assert norm.step == 4 and conv.weight.grad.any()


def test_window_is_dropped_when_weights_are_loaded_and_bn_checkpoints_fit():
    conv, norm = make('3x3', buffer_num=2)
    conv_norm(conv, norm, batch('3x3', 0)).sum().backward()
    bn = nn.BatchNorm2d(6).double()
    assert norm.state_dict().keys() == bn.state_dict().keys()
    bn.load_state_dict(norm.state_dict())
    norm.load_state_dict(bn.state_dict())
    assert len(norm.window) == 0 and norm.step == 1


def test_window_state_goes_through_a_file_and_training_continues_equal():
    conv, norm = make('3x3', buffer_num=2)
    for i in range(3):
        conv_norm(conv, norm, batch('3x3', i)).sum().backward()
    file = io.BytesIO()
    torch.save(norm.window_state(), file)
    file.seek(0)
    fresh = CBN(6, buffer_num=2).double()
    fresh.load_state_dict(norm.state_dict())
    fresh.load_window_state(torch.load(file, weights_only=True))
    x = batch('3x3', 5)
    assert torch.equal(conv_norm(conv, norm, x), conv_norm(conv, fresh, x))
    with pytest.raises(ValueError, match='channels'):
        CBN(7, buffer_num=2).load_window_state(norm.window_state())


def test_deepcopy_takes_its_own_window():
    conv, norm = make('3x3', buffer_num=2)
    conv_norm(conv, norm, batch('3x3', 0)).sum().backward()
    twin = copy.deepcopy(norm)
    conv_norm(conv, norm, batch('3x3', 1)).sum().backward()
    assert len(twin.window) == 1 and len(norm.window) == 2
    assert twin.window.entries[0].mean is not norm.window.entries[0].mean


@every_setting
def test_average_model_pickle_and_compile(setting):
    """An averaged copy of the model has a window of its own, a pickled one takes it along, a compiled one trains."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = make('3x3', dtype=torch.float32, buffer_num=2, **SETTINGS[setting])

        def forward(self, x):
            return conv_norm(self.conv, self.norm, x.clone()).relu().mean((2, 3))

    net = Net()
    average = torch.optim.swa_utils.AveragedModel(net)
    other, compiled = copy.deepcopy(net), torch.compile(net, backend='eager')
    for i in range(4):
        x = batch('3x3', i, torch.float32)
        assert torch.equal(compiled(x), other(x))
        compiled(x).square().sum().backward()
        other(x).square().sum().backward()
        average.update_parameters(net)
    assert len(average.module.norm.window) == 0 and average.module.norm.step == 0
    assert net.norm.step == other.norm.step == 4
    file = io.BytesIO()
    torch.save(net.norm, file)
    file.seek(0)
    restored = torch.load(file, weights_only=False)
    assert torch.equal(conv_norm(net.conv, restored, x), conv_norm(net.conv, net.norm, x))
    net.eval(), compiled.eval()
    assert torch.equal(compiled(x), net(x))


def test_channels_last_and_no_affine():
    conv, norm = make('3x3', buffer_num=2, affine=False)
    twin = copy.deepcopy(norm)
    for i in range(3):
        x1, x2 = batch('3x3', i).requires_grad_(), batch('3x3', i).requires_grad_()
        a = conv_norm(conv, norm, x1)
        b = conv_norm(conv, twin, x2.to(memory_format=torch.channels_last))
        a.sin().sum().backward(), b.sin().sum().backward()
        torch.testing.assert_close((a, x1.grad), (b, x2.grad))


def test_needs_a_convolution():
    _, norm = make('3x3', buffer_num=2)
    norm.layer_name = 'neck.bn'
    with pytest.raises(RuntimeError, match='neck.bn.*conv_norm'):
        norm(torch.zeros(1, 6, 3, 3))
    with pytest.raises(ValueError, match='6'):
        norm(torch.zeros(1, 5, 3, 3))
    with pytest.raises(TypeError, match='Identity'):
        conv_norm(nn.Identity(), norm, torch.randn(1, 6, 3, 3))


@pytest.mark.parametrize(
    'bad, says',
    [
        (dict(buffer_num=-1), '0 or more.*-1'),
        (dict(buffer_num=1.5), '1.5'),
        (dict(burnin=-2), '-2'),
        (dict(rho=2), 'between 0 .* and 1.*2'),
        (dict(sample_stride=0), '1 or more.*0'),
        (dict(compensation='tailor'), "'taylor', 'secant', 'none'.*'tailor'"),
        (dict(backprop='all'), "'window'.*'all'"),
        (dict(pool='ema'), "'exponential'.*'ema'"),
        (dict(running_stats='ema'), "'pooled'.*'ema'"),
        (dict(backprop='window', compensation='none'), "compensation='taylor' or 'secant'"),
    ],
)
def test_bad_values_are_refused(bad, says):
    with pytest.raises(ValueError, match=f'{next(iter(bad))}.*{says}'):
        build_norm_layer(dict(type='CBN', **bad), 4)


def test_short_names():
    plus, sync = (build_norm_layer(dict(type=name), 4)[1] for name in ('CBN+', 'SyncCBN'))
    assert (
        (plus.compensation, plus.backprop, plus.pool, plus.running_stats, plus.sample_stride)
        == ('secant', 'window', 'exponential', 'pooled', 2)
        and plus.buffer_num == 15
        and not plus.sync
    )
    assert sync.sync and isinstance(sync, CBN)
    assert build_norm_layer(dict(type='CBN+', buffer_num=3, sample_stride=1), 4)[1].sample_stride == 1
    with pytest.raises(TypeError, match="bufer_num.*nearest: 'buffer_num'"):
        build_norm_layer(dict(type='CBN+', bufer_num=3), 4)


def test_window_of_another_setting_is_left_out():
    conv, norm = make('3x3', buffer_num=2)
    conv_norm(conv, norm, batch('3x3', 0)).sum().backward()
    for setting in (dict(pool='exponential'), dict(compensation='none')):
        other = CBN(6, buffer_num=2, **setting).double()
        other.load_window_state(norm.window_state())
        assert not other.window and other.step == 1


def test_running_statistics_follow_the_pool():
    """What training normalizes with, so that evaluation does: on batches of different means the two are far apart."""
    batches = [batch('3x3', i) for i in range(5)]
    spread = {}
    for kind in ('batch', 'pooled'):
        conv, norm = make('3x3', buffer_num=4, running_stats=kind, momentum=None)
        with torch.no_grad():
            conv.weight.abs_()
        for _ in range(8):
            for x in batches:
                conv_norm(conv, norm, x).sum().backward()
        spread[kind] = norm.running_var
    with torch.no_grad():
        truth = torch.cat([conv(x) for x in batches]).transpose(0, 1).flatten(1).var(1)
    assert ((spread['pooled'] / truth - 1).abs() < 0.2).all() and (spread['batch'] < 0.7 * truth).all()


def test_input_on_another_device_is_refused():
    conv, norm = make('3x3', buffer_num=2)
    with pytest.raises(ValueError, match='input is on meta, the layer on cpu'):
        norm(torch.zeros(1, 6, 3, 3, device='meta'))
    with pytest.raises(ValueError, match='nn.Linear.*flatten'):
        conv_norm(nn.Linear(5, 6), CBN(6), torch.randn(2, 6, 5))


def test_build_norm_layer():
    for cfg, name in (
        (dict(type='BN'), 'bn1'),
        (dict(type='GN', num_groups=2), 'gn1'),
        (dict(type='SyncBN'), 'bn1'),
        (dict(type='CBN', buffer_num=3, burnin=8, by_epoch=True), 'bn1'),
    ):
        assert build_norm_layer(cfg, 4, 1)[0] == name
    frozen = build_norm_layer(dict(type='CBN', requires_grad=False), 4)[1]
    assert not any(p.requires_grad for p in frozen.parameters())
    with pytest.raises(KeyError, match="CBN2.*known are.*SyncBN.*nearest: 'CBN'"):
        build_norm_layer(dict(type='CBN2'), 4)
    with pytest.raises(TypeError, match='bufer_num.*buffer_num'):
        build_norm_layer(dict(type='CBN', bufer_num=3), 4)
    with pytest.raises(TypeError, match='num_groups'):
        build_norm_layer(dict(type='GN'), 4)
    with pytest.raises(TypeError, match='type'):
        build_norm_layer('BN', 4)


def test_float32_training_reduces_a_loss():
    torch.manual_seed(0)
    conv, norm = make('3x3', dtype=torch.float32, buffer_num=3, burnin=3)
    head = nn.Linear(6, 1)
    opt = torch.optim.SGD([*conv.parameters(), *norm.parameters(), *head.parameters()], 0.02)
    losses = []
    for _i in range(60):
        x = torch.randn(2, 4, 7, 6)
        target = x[:, 0].mean((1, 2))
        out = head(F.relu(conv_norm(conv, norm, x)).mean((2, 3))).squeeze(1)
        loss = F.mse_loss(out, target)
        opt.zero_grad(), loss.backward(), opt.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
