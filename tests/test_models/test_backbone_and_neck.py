"""ResNet and FPN against torchvision with the same weights."""
import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from mmdet.models.backbones import ResNet
from mmdet.models.necks import FPN
from mmdet.ops.norm import CBN


@pytest.mark.parametrize('depth', [18, 50])
def test_resnet_equals_torchvision(depth):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f'resnet{depth}')(num_classes=1)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = ResNet(depth)
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
            where)


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
    net = ResNet(50, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'))
    with pytest.raises(FileNotFoundError, match='torchvision://resnet50.*checkpoints.*init_cfg=None'):
        net.init_weights()


def test_bad_arguments():
    for bad, word in ((dict(depth=20), 'depth'), (dict(depth=18, style='tf'), 'style'),
                      (dict(depth=18, num_stages=2), 'out_indices')):
        with pytest.raises(ValueError, match=word):
            ResNet(**bad)


# -- FPN ----------------------------------------------------------------------------------------------------------


def maps():
    return [torch.randn(2, c, 32 // c * 4, 48 // c * 4) for c in (4, 8, 16)]


def test_fpn_equals_torchvision():
    torch.manual_seed(0)
    theirs = FeaturePyramidNetwork([4, 8, 16], 6, extra_blocks=LastLevelMaxPool())
    ours = FPN([4, 8, 16], 6, num_outs=4)
    for i in range(3):
        for conv, other in ((ours.lateral_convs[i].conv, theirs.inner_blocks[i][0]),
                            (ours.fpn_convs[i].conv, theirs.layer_blocks[i][0])):
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
