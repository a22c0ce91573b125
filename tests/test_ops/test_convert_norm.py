"""convert_norm on torchvision's, timm's, mmdet's and hand-written models."""

import copy
import io
import re

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops.misc import Conv2dNormActivation, FrozenBatchNorm2d

from mmdet.models.backbones import ResNet
from mmdet.ops.norm import CBN, CBNPlus, SyncBN, SyncCBN, convert_norm
from mmdet.ops.norm.convert import ApplyAct, Feed

CFG = dict(type='CBN', buffer_num=2)


def images(seed=0, size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def make(kind):
    torch.manual_seed(0)
    if kind in ('resnet18', 'resnet50'):
        return getattr(torchvision.models, kind)(weights=None, num_classes=5)
    timm = pytest.importorskip('timm', reason='timm is not installed: pip install -e .[tests]')
    return timm.create_model(kind, pretrained=False, num_classes=5)


def train(model, steps=4, forward=None, lr=0.05):
    """Cross entropy on the same images; the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy((model if forward is None else forward)(images()), torch.tensor([1, 3]))
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    return losses


def norms(model, kind=CBN):
    return [layer for layer in model.modules() if isinstance(layer, kind)]


def feeds(model):
    return [feed for module in model.modules() for feed in Feed.on(module)]


def through_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))


class Block(nn.Module):
    """Modules in the given order of registration, called by ``run``."""

    def __init__(self, run, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def conv(i=4, o=4):
    return nn.Conv2d(i, o, 3, padding=1)


# -- whole models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('inputs', [None, images()], ids=['order', 'run'])
def test_all_of_resnet50_is_paired(inputs):
    model = make('resnet50')
    report = convert_norm(model, CFG, inputs)
    assert not report.left and len(report.converted) == len(norms(model)) == len(feeds(model)) == 53
    for norm, conv_name in report.converted.items():
        assert conv_name == (norm[:-1] + '0' if 'downsample' in norm else norm.replace('bn', 'conv'))
        assert model.get_submodule(norm).layer_name == norm
        assert Feed.on(model.get_submodule(conv_name))[0].norm is model.get_submodule(norm)
    assert str(report) == 'CBN: 53 converted, 0 left as they were'


@pytest.mark.parametrize('kind, count', [('resnet50', 53), ('resnet10t', 14), ('regnetx_002', 44)])
def test_trains_saves_loads_copies_and_goes_back(kind, count):
    model = make(kind)
    original = copy.deepcopy(model)
    parameters = dict(model.named_parameters())
    x = images(1)
    convert_norm(model, CFG, x)
    assert len(norms(model)) == count
    assert torch.equal(model.eval()(x), original.eval()(x))  # also: the run changed no statistics
    assert model.state_dict().keys() == original.state_dict().keys()
    assert all(p is parameters[name] for name, p in model.named_parameters())

    losses = train(model.train(), 4)
    assert losses[-1] < 0.5 * losses[0]
    assert all(len(norm.window) == 2 and norm.step == 4 for norm in norms(model))
    assert all(feed.made is None for feed in feeds(model))

    original.load_state_dict(model.state_dict())
    copies = [copy.deepcopy(model), through_file(model)]
    fresh = convert_norm(again := make(kind), CFG, x) and again
    fresh.load_state_dict(original.state_dict())
    for other in [*copies, fresh]:
        assert torch.equal(other.eval()(x), model.eval()(x)) and len(feeds(other)) == count
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert train(copies[0].train(), 1) == train(copies[1].train(), 1)  # the windows are copied too
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {norm.step for norm in norms(model)} == {4} and {norm.step for norm in norms(copies[0])} == {5}
    assert not {id(norm) for norm in norms(model)} & {id(feed.norm) for feed in feeds(copies[0])}

    report = convert_norm(model, dict(type='BN'))
    assert len(report.converted) == count and not norms(model) and not feeds(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in original.modules()]
    assert torch.equal(model.eval()(x), original.eval()(x))
    assert train(model.train(), 1) == train(original.train(), 1)


def test_resnet18_equals_mmdets_resnet_that_hands_the_convolutions_over():
    foreign = IntermediateLayerGetter(make('resnet18'), {'layer4': 'out'})
    convert_norm(foreign, CFG)
    own = ResNet(18, norm_cfg=CFG, norm_eval=False, frozen_stages=-1, out_indices=(3,))
    own.load_state_dict(foreign.state_dict())
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in (foreign, own)]
    for i in range(3):
        a, b = foreign(images(i))['out'], own.train()(images(i))[0]
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        for out, optimizer in zip((a, b), optimizers):
            optimizer.zero_grad(), out.square().mean().backward(), optimizer.step()
    torch.testing.assert_close(dict(foreign.state_dict()), dict(own.state_dict()), rtol=0, atol=0)
    assert {len(norm.window) for norm in norms(foreign)} == {2}


def test_mmdets_own_models_convert_too():
    reference = ResNet(18, norm_cfg=CFG, norm_eval=False, frozen_stages=-1)
    model = ResNet(18, norm_cfg=dict(type='BN'), norm_eval=False, frozen_stages=-1)
    model.load_state_dict(reference.state_dict())
    assert len(convert_norm(model, CFG).converted) == 20
    for i in range(3):
        a, b = model.train()(images(i))[-1], reference.train()(images(i))[-1]
        assert torch.equal(a, b)
        a.sum().backward(), b.sum().backward()
    # A CBN model without hooks stays one: its own code feeds it.
    report = convert_norm(reference, dict(type='CBN+', burnin=7))
    assert set(report.converted.values()) == {None} and len(norms(reference, CBNPlus)) == 20
    reference(images())[-1].sum().backward()
    assert all(norm.step == 4 and norm.burnin == 7 for norm in norms(reference))


# -- pairs ----------------------------------------------------------------------------------------------------------


def test_registered_in_another_order_than_called():
    def run(m, x):
        return m.bn2(m.conv2(F.relu(m.bn1(m.conv1(x)))))

    def modules():
        return dict(conv1=conv(3), conv2=conv(), bn1=nn.BatchNorm2d(4), bn2=nn.BatchNorm2d(4))

    model = Block(run, **modules())
    with pytest.raises(
        ValueError,
        match=r"(?s)give example_inputs.*bn1: Conv2d 'conv2' or Conv2d 'conv1' may feed it; "
        r"example_inputs.*bn2: .*'bn1' comes",
    ):
        convert_norm(model, CFG)
    assert not norms(model) and not feeds(model)
    assert convert_norm(model, CFG, images()).converted == dict(bn1='conv1', bn2='conv2')
    model(images()).sum().backward()
    assert [norm.step for norm in norms(model)] == [1, 1]


def test_preactivation_block_is_not_mispaired():
    def run(m, x):
        return x + m.conv2(F.relu(m.bn2(m.conv1(F.relu(m.bn1(x))))))

    model = Block(run, bn1=nn.BatchNorm2d(4), conv1=conv(), bn2=nn.BatchNorm2d(4), conv2=conv())
    x = torch.randn(2, 4, 8, 8)
    with pytest.raises(ValueError, match='give example_inputs'):
        convert_norm(model, CFG)
    report = convert_norm(model, CFG, x)
    assert report.converted == dict(bn2='conv1') and 'operation outside' in report.left['bn1']
    model(x).sum().backward()


def test_a_wrong_pair_is_refused_in_training():
    swapped = Block(
        lambda m, x: m.b(m.conv2(m.a(m.conv1(x)))),
        conv1=conv(3),
        b=nn.BatchNorm2d(4),
        conv2=conv(),
        a=nn.BatchNorm2d(4),
    )
    inplace = Block(lambda m, x: m.bn(F.relu_(m.conv(x))), conv=conv(3), bn=nn.BatchNorm2d(4))
    for model, name, right in ((swapped, 'a', dict(b='conv2', a='conv1')), (inplace, 'bn', {})):
        convert_norm(model, CFG)
        with pytest.raises(RuntimeError, match=f'CBN {name}: .*example_inputs'):
            model(images())
        report = convert_norm(model, CFG, images())
        assert report.converted == right and len(feeds(model)) == len(norms(model))
    assert "changed in place after Conv2d 'conv'" in report.left['bn']


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x):
        return x + super().forward(x)


LEFT = {
    'dropout': (lambda: nn.Sequential(conv(3), nn.Dropout(), nn.BatchNorm2d(4)), "Dropout '1' feeds it"),
    'own conv': (lambda: nn.Sequential(OwnConv(3, 4, 3), nn.BatchNorm2d(4)), "OwnConv '0'.*forward of its own"),
    'own norm': (lambda: nn.Sequential(conv(3), OwnNorm(4)), 'OwnNorm has a forward of its own'),
    'frozen': (lambda: nn.Sequential(conv(3), FrozenBatchNorm2d(4)), 'constant'),
    'lazy': (lambda: nn.Sequential(conv(3), nn.LazyBatchNorm2d()), 'no size yet'),
    'two at a norm': (
        lambda: Block(lambda m, x: m.bn(m.a(x)) + m.bn(m.b(x)), a=conv(3), b=conv(3), bn=nn.BatchNorm2d(4)),
        "several feed it: Conv2d 'a', Conv2d 'b'",
    ),
    'siamese': (
        lambda: Block(lambda m, x: [m.bn(y) for y in [m.a(x), m.a(2 * x)]], a=conv(3), bn=nn.BatchNorm2d(4)),
        'runs again before',
    ),
    'not called': (lambda: Block(lambda m, x: m.a(x), a=conv(3), b=nn.Sequential(nn.BatchNorm2d(4))), 'not called'),
    'itself': (lambda: nn.BatchNorm2d(3), 'in place'),
}


@pytest.mark.parametrize('case', LEFT)
def test_is_left_alone_with_a_reason(case):
    model = LEFT[case][0]()
    report = convert_norm(model, CFG, images())
    assert not report.converted and len(report.left) == 1
    name, why = next(iter(report.left.items()))
    assert re.search(LEFT[case][1], why) and (name or 'the model itself') in str(report)
    assert not norms(model) and not feeds(model)


def test_shared_layers():
    a, b, c, bn, other = conv(3), conv(3), conv(3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    pair = nn.Sequential(a, bn)
    assert convert_norm(nn.Sequential(pair, conv(4, 3), pair), CFG).converted == {'0.1': '0.0'}
    two = nn.ModuleList([nn.Sequential(b, nn.BatchNorm2d(4)), nn.Sequential(b, nn.BatchNorm2d(4))])
    assert convert_norm(two, CFG).converted == {'0.1': '0.0', '1.1': '0.0'}
    for each in two:
        each(images()).sum().backward()
    assert [norm.step for norm in norms(two)] == [1, 1]
    both = nn.ModuleList([nn.Sequential(c, other), nn.Sequential(conv(3), other)])
    with pytest.raises(ValueError, match='several feed it'):
        convert_norm(both, CFG)
    tied = Block(None, x=nn.Sequential(pair), y=nn.Sequential(pair))
    convert_norm(tied, dict(type='BN'))
    assert tied.x[0][1] is tied.y[0][1] and isinstance(tied.x[0][1], nn.BatchNorm2d)


def test_order_decides_for_what_is_not_called():
    model = Block(
        lambda m, x: m.main(x) if not m.training else m.main(x) + m.aux(x),
        main=Conv2dNormActivation(3, 4),
        aux=Conv2dNormActivation(3, 4),
    )
    report = convert_norm(model, CFG, images())
    assert report.converted == {'main.1': 'main.0', 'aux.1': 'aux.0'}
    model(images()).sum().backward()
    assert [norm.step for norm in norms(model)] == [1, 1]


KINDS = {
    'linear': (nn.Linear(5, 6), nn.BatchNorm1d(6), (7, 5)),
    'tokens': (nn.Linear(5, 6), nn.BatchNorm1d(6), (7, 2, 5)),
    'conv1d': (nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), (2, 3, 9)),
    'conv3d': (nn.Conv3d(3, 6, 2), nn.BatchNorm3d(6), (2, 3, 4, 4, 4)),
    'transposed': (nn.ConvTranspose2d(3, 6, 2, stride=2), nn.BatchNorm2d(6), (2, 3, 4, 4)),
}


@pytest.mark.parametrize('order', [True, False])
@pytest.mark.parametrize('kind', KINDS)
def test_kinds_of_layers(kind, order):
    layer, norm, shape = copy.deepcopy(KINDS[kind])
    model = Block(
        lambda m, x: m.norm(m.layer(x).flatten(0, 1) if kind == 'tokens' else m.layer(x)), layer=layer, norm=norm
    )
    assert convert_norm(model, CFG, None if order else torch.randn(shape)).converted == dict(norm='layer')
    for _ in range(3):
        model(torch.randn(shape)).sum().backward()
    assert len(model.norm.window) == 2 and model.norm.step == 3
    convert_norm(model, dict(type='BN'))
    assert type(model.norm) is type(norm)


def test_example_inputs_as_tuple_and_dict_and_the_model_is_as_before():
    def run(m, x, scale):
        return m.net(x) * scale

    model = Block(None, net=small())
    type(model).forward, forward = run, type(model).forward
    try:
        model.net[1].eval()
        for inputs in ((images(), 2), dict(scale=2, x=images())):
            before = copy.deepcopy(model.state_dict())
            assert len(convert_norm(model, CFG, inputs).converted) == 2
            assert not model.net[1].training and model.net[4].training and model.training
            torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
        with pytest.raises(TypeError, match='scale'):
            convert_norm(model, CFG, images())
        assert model.training and not model.net[1].training and len(model.net[0]._forward_hooks) == 1
    finally:
        type(model).forward = forward


# -- what carries over ----------------------------------------------------------------------------------------------


def test_settings_carry_over():
    model = nn.Sequential(
        conv(3),
        nn.BatchNorm2d(4, 1e-3, 0.3),
        conv(),
        nn.BatchNorm2d(4, affine=False),
        conv(),
        nn.BatchNorm2d(4, track_running_stats=False),
        conv(),
        nn.BatchNorm2d(4, momentum=None),
    )
    model.double()
    model[1].eval().requires_grad_(False)
    seen = []
    handle = model[1].register_forward_hook(lambda *args: seen.append(1))
    weight, running = model[1].weight, model[1].running_mean
    convert_norm(model, CFG)
    a, b, c, d = norms(model)
    assert (a.eps, a.momentum, a.training, a.weight.requires_grad) == (1e-3, 0.3, False, False)
    assert a.weight is weight and a.running_mean is running and running.dtype == torch.float64
    assert b.affine is False and b.weight is None and c.running_mean is None and not c.track_running_stats
    assert d.momentum is None
    model(images().double()).sum().backward()
    assert seen == [1] and [norm.step for norm in (a, b, c, d)] == [0, 1, 1, 1]
    handle.remove()
    convert_norm(model, dict(type='CBN', eps=1e-2, momentum=0.5, requires_grad=True))
    assert model[1].eps == 1e-2 and model[7].momentum == 0.5 and weight.requires_grad
    model(images().double())
    assert seen == [1] and [norm.step for norm in norms(model)] == [0, 1, 1, 1]
    convert_norm(model, dict(type='BN', momentum=0.2))
    assert (model[1].eps, model[1].momentum) == (1e-2, 0.2) and model[1].weight is weight


def test_other_norms():
    model = small()
    weight = model[1].weight
    convert_norm(model, CFG)
    for cfg, kind in ((dict(type='SyncCBN', buffer_num=2), SyncCBN), (dict(type='CBN+'), CBNPlus)):
        assert convert_norm(model, cfg).converted == {'1': '0', '4': '3'}
        assert [type(norm) for norm in norms(model)] == [kind, kind] and len(feeds(model)) == 2
        model(images()).sum().backward()
        assert len(model[1].window) == 1
    assert convert_norm(model, dict(type='SyncBN')).converted == {'1': None, '4': None}
    assert type(model[1]) is SyncBN and not feeds(model)
    model(images()).sum().backward()
    convert_norm(model, dict(type='BN'))
    assert type(model[1]) is nn.BatchNorm2d and not convert_norm(model, dict(type='BN')).converted
    report = convert_norm(model, dict(type='GN', num_groups=4))
    assert type(model[1]) is nn.GroupNorm and model[1].weight is weight and '6 channels' in report.left['4']
    assert '1.running_mean' not in model.state_dict()
    model(images()).sum().backward()


def test_norm_and_act_in_one_layer_become_any_norm():
    model = make('regnetx_002')
    x = images()
    want = model.eval()(x)
    seen = []  # what a user's hook on the layer sees: after the activation, as before
    model.stem.bn.register_forward_hook(lambda m, args, z: seen.append(z.clone()))
    for cfg in (CFG, dict(type='CBN+'), dict(type='SyncBN'), CFG):
        convert_norm(model, cfg, x)
        assert torch.equal(model(x), want) and sum(len(ApplyAct.on(m)) for m in model.modules()) == 44
    convert_norm(model, dict(type='BN'))
    assert all(torch.equal(z, seen[0]) for z in seen) and len(seen) == 7 and (seen[0] >= 0).all()
    assert torch.equal(model(x), want) and not any(ApplyAct.on(m) for m in model.modules())


@pytest.mark.parametrize(
    'cfg, error, match',
    [
        (dict(type='CBM'), KeyError, 'CBN'),
        (dict(type='CBN', bufer_num=1), TypeError, 'buffer_num'),
        (dict(type='CBN', buffer_num=-1), ValueError, 'buffer_num'),
        (dict(type='GN'), TypeError, 'num_groups'),
        ('CBN', TypeError, 'dict'),
        (dict(type='LN'), ValueError, 'SyncBN'),
        (dict(type='CBN', affine=False), ValueError, 'affine'),
    ],
)
def test_a_bad_cfg_changes_nothing(cfg, error, match):
    model = small()
    with pytest.raises(error, match=match):
        convert_norm(model, cfg)
    assert [type(m) for m in model] == [type(m) for m in small()]


# -- at run time ----------------------------------------------------------------------------------------------------


def test_a_loaded_models_hooks_keep_their_numbers(monkeypatch):
    model = small()
    for _ in range(3):  # numbers that a new process would give again
        handle = model[0].register_forward_hook(lambda *args: None)
        handle.remove()
    convert_norm(model, CFG)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    monkeypatch.setattr(RemovableHandle, 'next_id', Feed.on(model[0])[0].handle.id)
    loaded = torch.load(file, weights_only=False)
    handle = loaded[0].register_forward_hook(lambda *args: None)
    handle.remove()
    loaded(images()).sum().backward()
    assert loaded[1].step == 1
    convert_norm(loaded, dict(type='BN'))
    assert not loaded[1]._forward_pre_hooks
    assert not loaded[0]._forward_hooks and not loaded[0]._forward_hooks_with_kwargs


def test_no_activation_is_kept():
    model = small()
    convert_norm(model, CFG)
    model[0](images())  # the norm is not called
    feed, other = feeds(model)
    assert feed.made is not None
    model.eval()(images())
    assert feed.made is None
    model.train()(images())
    assert feed.made is None and other.made is None
    assert not small()[0]._forward_hooks


@pytest.mark.parametrize('reentrant', [True, False])
def test_activation_checkpointing(reentrant):
    model, plain = small(), small()
    convert_norm(model, CFG), convert_norm(plain, CFG)
    for i in range(3):
        x = images(i).requires_grad_()
        checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
        plain(images(i)).square().sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()])
    torch.testing.assert_close(dict(model.state_dict()), dict(plain.state_dict()))
    assert model[4].step == 3 and len(model[4].window) == 2


def test_torch_compile():
    models = []
    for act in (False, True):
        if act:
            layers = pytest.importorskip('timm.layers', reason='timm is not installed: pip install -e .[tests]')
        for _ in range(2):
            model = small()
            model.append(layers.ConvNormAct(6, 5, act_layer='silu') if act else conv(6, 5))
            model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
            models.append(model)
            convert_norm(model, CFG)
    for model, plain in (models[:2], models[2:]):
        model.load_state_dict(plain.state_dict())
        torch._dynamo.reset()
        compiled = torch.compile(model, backend='eager')
        assert train(model, 3, compiled) == train(plain, 3)
        assert {(norm.step, len(norm.window)) for norm in norms(model)} == {(3, 2)}


def test_backward_hooks_of_others():
    model, plain = small(), small()
    convert_norm(model, CFG), convert_norm(plain, CFG)
    for layer in model:
        layer.register_full_backward_hook(lambda *args: None)
    for i in range(2):
        for each in (model, plain):
            each(images(i).requires_grad_()).square().sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()])
    assert model[1].step == 2
