"""ResNet, ResNeXt and FPN against torchvision with the same weights."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from mmdet.models.backbones import ResNet, ResNeXt
from mmdet.models.necks import FPN
from mmdet.models.roi_heads import ResLayer
from mmdet.ops.norm import CBN
from mmdet.run.prepare import setup


@pytest.mark.parametrize(
    'name, ours',
    [
        ('resnet18', lambda: ResNet(18)),
        ('resnet50', lambda: ResNet(50)),
        ('resnext50_32x4d', lambda: ResNeXt(50, groups=32, base_width=4)),
    ],
)
def test_equals_torchvision(name, ours):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=1)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = ours()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith('fc.')}
    ours.load_state_dict(state, strict=True)
    x = torch.randn(1, 3, 64, 96)
    ours.eval(), theirs.eval()
    want = torchvision.models._utils.IntermediateLayerGetter(theirs, {f'layer{i}': str(i) for i in range(1, 5)})(x)
    for a, b in zip(ours(x), want.values()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_caffe_style_puts_the_stride_on_the_first_convolution():
    for style, where in (('pytorch', 'conv2'), ('caffe', 'conv1')):
        block = ResNet(50, style=style).layer2[0]
        assert [getattr(block, name).stride[0] for name in ('conv1', 'conv2')].index(2) == ('conv1', 'conv2').index(
            where
        )


@pytest.mark.parametrize('options', [dict(groups=4, base_width=6, base_channels=16), dict(groups=1, base_width=4)])
def test_widths_of_resnext(options):
    """Groups of base_width channels in the first stage, twice as wide in each following; one group is ResNet."""
    net = ResNeXt(50, **options)
    convs = [getattr(net, f'layer{i}')[j].conv2 for i in range(1, 5) for j in (0, 1)]
    widths = [64, 128, 256, 512] if options['groups'] == 1 else [24, 48, 96, 192]
    assert [conv.out_channels for conv in convs[::2]] == [conv.out_channels for conv in convs[1::2]] == widths
    assert all(conv.groups == options['groups'] for conv in convs)
    assert net.layer4[2].conv3.out_channels == 32 * options.get('base_channels', 64)


def test_resnext_with_cbn():
    """The grouped convolutions' statistics follow their weights, with activation checkpointing too."""
    torch.manual_seed(0)
    net = ResNeXt(
        50,
        groups=4,
        base_width=2,
        base_channels=8,
        norm_eval=False,
        with_cp=True,
        norm_cfg=dict(type='CBN', buffer_num=2),
    )
    for _ in range(3):
        net(torch.randn(2, 3, 32, 32))[-1].sum().backward()
    norm = net.layer2[1].bn2
    assert norm.step == 3 and norm.window.entries[0].patch.shape == (4, 4 * 9) and norm.window.entries[0].slope.any()


def test_standardized_weights():
    """With GN they train; CBN, which follows the weights that a convolution holds, says that it cannot."""
    options = dict(base_channels=8, norm_eval=False, conv_cfg=dict(type='ConvWS'))
    x = torch.randn(2, 3, 32, 32)
    net = ResNet(18, norm_cfg=dict(type='GN', num_groups=2), **options)
    net(x)[-1].sum().backward()
    assert type(net.layer4[1].conv2).__name__ == 'ConvWS2d' and net.layer1[0].conv1.weight.grad.any()
    net = ResNet(18, norm_cfg=dict(type='CBN', buffer_num=2), **options)
    with pytest.raises(TypeError, match='ConvWS2d standardizes'):
        net(x)
    assert net.eval()(x)[0].isfinite().all()


@pytest.mark.parametrize('depth, style, stage', [(50, 'caffe', 3), (18, 'pytorch', 3), (18, 'pytorch', 2)])
def test_shared_head_is_a_stage_of_the_backbone(depth, style, stage, tmp_path):
    torch.manual_seed(0)
    whole = ResNet(depth, style=style).eval()
    torch.save(whole.state_dict(), tmp_path / 'whole.pth')
    head = ResLayer(
        depth,
        stage=stage,
        style=style,
        norm_cfg=dict(type='BN', requires_grad=False),
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'whole.pth')),
    )
    name = f'layer{stage + 1}'
    assert list(head.state_dict()) == [key for key in whole.state_dict() if key.startswith(name)]
    head.init_weights()
    layer = getattr(whole, name)
    x = torch.randn(2, layer[0].conv1.in_channels, 8, 8)
    out = head.train()(x)  # the norms are in evaluation mode all the same
    torch.testing.assert_close(out, layer(x), rtol=0, atol=0)
    assert out.shape[2:] == (4, 4) and not any(
        p.requires_grad for name, p in head.named_parameters() if 'bn' in name or 'downsample.1' in name
    )


def test_frozen_stages_and_norm_eval():
    net = ResNet(18, frozen_stages=1, norm_eval=False).train()
    for name, parameter in net.named_parameters():
        assert parameter.requires_grad != name.startswith(('conv1.', 'bn1.', 'layer1.')), name
    assert not net.bn1.training and not net.layer1[0].bn1.training and net.layer2[0].bn1.training
    net = ResNet(18, norm_eval=True, norm_cfg=dict(type='CBN', buffer_num=2)).train()
    assert net.training and not any(m.training for m in net.modules() if isinstance(m, CBN))
    net(torch.randn(1, 3, 32, 32))[0].sum().backward()
    assert net.bn1.step == 0 and net.conv1.weight.grad.any()


def test_checkpointing_gives_the_same_gradients_and_windows():
    grads = []
    for with_cp in (True, False):
        torch.manual_seed(0)
        net = ResNet(18, base_channels=4, with_cp=with_cp, norm_eval=False, norm_cfg=dict(type='CBN', buffer_num=2))
        for i in range(3):
            x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(i))
            net.zero_grad()
            net(x)[-1].sin().sum().backward()
        grads.append([p.grad for p in net.parameters()] + [net.layer2[0].bn1.running_var])
        assert net.layer3[1].bn2.step == 3 and len(net.layer3[1].bn2.window) == 2
    torch.testing.assert_close(*grads)


def test_initialization(tmp_path):
    net = ResNet(18, base_channels=4)
    net.init_weights()
    assert not net.layer1[0].bn2.weight.any() and net.layer1[0].bn1.weight.eq(1).all()
    torch.save(net.state_dict(), tmp_path / 'net.pth')
    other = ResNet(18, base_channels=4, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'net.pth')))
    other.init_weights()
    assert torch.equal(other.layer4[1].conv2.weight, net.layer4[1].conv2.weight)


def test_pretrained_weights_that_cannot_be_had_say_where_to_put_them(tmp_path, monkeypatch):
    from urllib.error import URLError

    def offline(*args, **kwargs):
        raise URLError('offline')

    monkeypatch.setattr('urllib.request.urlopen', offline)
    monkeypatch.setattr('torch.hub.urlopen', offline)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    setup()
    net = ResNet(50, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'))
    with pytest.raises(FileNotFoundError, match='torchvision://resnet50.*checkpoints.*init_cfg=None'):
        net.init_weights()


def test_bad_arguments():
    for net, bad, words in (
        (ResNet, dict(depth=20), 'ResNet: depth'),
        (ResNet, dict(depth=18, style='tf'), 'ResNet: style'),
        (ResNet, dict(depth=18, num_stages=2), 'out_indices'),
        (ResNet, dict(depth=18, groups=2), 'groups=2'),
        (ResNeXt, dict(depth=18, groups=2), 'ResNeXt: depth'),
        (ResLayer, dict(depth=50, stage=4), 'stage'),
    ):
        with pytest.raises(ValueError, match=words):
            net(**bad)


# -- FPN ----------------------------------------------------------------------------------------------------------


def maps():
    return [torch.randn(2, c, 32 // c * 4, 48 // c * 4) for c in (4, 8, 16)]


def test_fpn_equals_torchvision():
    torch.manual_seed(0)
    theirs = FeaturePyramidNetwork([4, 8, 16], 6, extra_blocks=LastLevelMaxPool())
    ours = FPN([4, 8, 16], 6, num_outs=4)
    for i in range(3):
        for conv, other in (
            (ours.lateral_convs[i].conv, theirs.inner_blocks[i][0]),
            (ours.fpn_convs[i].conv, theirs.layer_blocks[i][0]),
        ):
            conv.load_state_dict(other.state_dict())
    inputs = maps()
    want = theirs({str(i): x for i, x in enumerate(inputs)})
    for a, b in zip(ours(inputs), want.values(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('extra', ['on_input', 'on_lateral', 'on_output', True, False])
def test_fpn_further_levels(extra):
    fpn = FPN([4, 8, 16], 6, num_outs=5, start_level=1, add_extra_convs=extra, relu_before_extra_convs=True)
    outs = fpn(maps())
    assert [tuple(x.shape[1:]) for x in outs] == [(6, 16, 24), (6, 8, 12), (6, 4, 6), (6, 2, 3), (6, 1, 2)]
    assert len(fpn.fpn_convs) == (5 if extra else 2)


def test_fpn_norm_and_errors():
    fpn = FPN([4, 8], 6, num_outs=2, norm_cfg=dict(type='CBN', buffer_num=1), no_norm_on_lateral=True)
    assert sum(isinstance(m, CBN) for m in fpn.modules()) == 2 and fpn.fpn_convs[0].conv.bias is None
    for bad in (dict(num_outs=1), dict(num_outs=3, start_level=3), dict(num_outs=3, add_extra_convs='on_top')):
        with pytest.raises(ValueError, match='FPN'):
            FPN([4, 8, 16], 6, **bad)
    with pytest.raises(ValueError, match='2 inputs'):
        fpn(maps())
