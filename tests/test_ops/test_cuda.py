"""The norms on a GPU, against the CPU in float32. GPU_CHECK_DEVICE=cpu pytest -m cuda rehearses it on the CPU."""

import copy
import os
import subprocess
import sys

import pytest
import torch
import torchvision
from conftest import ROOT
from torch import nn
from torch.nn import functional as F

from mmdet.analysis.measure import traffic
from mmdet.ops.norm import CBN, build_norm_layer, conv_norm, convert_norm

DEVICE = os.environ.get('GPU_CHECK_DEVICE', 'cuda')
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == 'cuda' and not torch.cuda.is_available(), reason='no CUDA device here'),
]

NORMS = {
    'BN': dict(type='BN'),
    'SyncBN': dict(type='SyncBN'),
    'GN': dict(type='GN', num_groups=8),
    'CBN': dict(type='CBN'),
    'naive': dict(type='CBN', compensation='none'),
    'SyncCBN': dict(type='SyncCBN'),
    'secant, window': dict(type='CBN', compensation='secant', backprop='window', running_stats='pooled'),
    'sample_stride=2': dict(type='CBN', sample_stride=2),
    'CBN+': dict(type='CBN+'),
    'CBN+GN': dict(type='CBN+GN', num_groups=8),
}
# relative to the reference's norm
LIMITS = {torch.float32: 3e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}


@pytest.fixture(autouse=True)
def exact():
    """No TensorFloat-32, which has hardly more than bfloat16's precision, and the same sums in each run."""
    with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
        yield


class Net(nn.Module):
    """3x3, grouped, and 1x1 convolutions with norms; smooth, as a ReLU's switches are no matter of precision."""

    def __init__(self, norm: dict) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, 16, 3, 2, 1),
                nn.Conv2d(16, 16, 3, 1, 1, groups=2, bias=False),
                nn.Conv2d(16, 32, 1, bias=False),
            ]
        )
        self.norms = nn.ModuleList(build_norm_layer(norm, conv.out_channels)[1] for conv in self.convs)

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms):
            x = F.silu(conv_norm(conv, norm, x))
        return x


def tensors(state, path=''):
    """The floating-point tensors of nested containers, on the CPU, by their place."""
    if isinstance(state, torch.Tensor):
        return {path: state.detach().cpu()} if state.is_floating_point() else {}
    if isinstance(state, (list, tuple)):
        state = dict(enumerate(state))
    parts = state.items() if isinstance(state, dict) else ()
    return {place: t for key, value in parts for place, t in tensors(value, f'{path}.{key}').items()}


def steps(model, optimizer, device, dtype, layout, numbers):
    """Train; the last output, and what is left: gradients, buffers, windows."""
    for number in numbers:
        torch.manual_seed(number)
        x = torch.randn(4, 3, 32, 32) * torch.rand(4, 1, 1, 1)  # images that differ
        weight = torch.randn(4, 32, 16, 16)
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            y = model(x.to(device, memory_format=layout))
        optimizer.zero_grad()
        (y.float() * weight.to(device)).mean().backward()
        optimizer.step()
    # torch's GN knows one layout on a GPU.
    assert y.is_contiguous(memory_format=layout) or isinstance(model.norms[-1], nn.GroupNorm)
    windows = {name: layer.window_state() for name, layer in model.named_modules() if isinstance(layer, CBN)}
    for window in windows.values():
        for entry in window['window']['entries']:  # only their ratio means something: float16's products are scaled
            own = entry.pop('own')
            entry['slope'] = None if own is None else entry['slope'] / own.unsqueeze(1)
    return tensors(
        dict(
            output=y,
            grad={name: p.grad for name, p in model.named_parameters()},
            state=dict(model.state_dict()),
            windows=windows,
        )
    )


def make(norm, device, dtype=torch.float32, layout=torch.contiguous_format):
    settings = dict(NORMS[norm])
    if dtype == torch.float32 and 'CBN' in settings['type']:
        settings['slope_dtype'] = 'float32'  # on some CPUs it is bfloat16
    model = Net(settings).to(device, memory_format=layout).train()
    return model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


@pytest.fixture(scope='module')
def reference():
    return {
        norm: steps(*make(norm, 'cpu'), 'cpu', torch.float32, torch.contiguous_format, range(6))
        for norm in NORMS
        if norm != 'SyncBN'
    }


def distances(found, expected):
    """Relative to the expected tensor's norm, for a small gradient to the others'; without that of the bias before a
    norm, which is nought but for rounding."""
    assert found.keys() == expected.keys()
    sizes = {name: float(t.double().square().mean().sqrt()) for name, t in expected.items()}
    least = max((size for name, size in sizes.items() if name.startswith('.grad')), default=0) / 10
    return {
        name: float((found[name] - t).double().square().mean().sqrt())
        / max(sizes[name], least if name.startswith('.grad') else 1e-3)
        for name, t in expected.items()
        if name != '.grad.convs.0.bias'
    }


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['NCHW', 'NHWC'])
@pytest.mark.parametrize('dtype', LIMITS, ids=str)
@pytest.mark.parametrize('norm', NORMS)
def test_forward_and_backward(norm, dtype, layout, reference):
    """Six steps, so that the windows are full: output, gradients, running statistics and windows."""
    if DEVICE == 'cpu' and dtype == torch.float16 and norm in ('BN', 'SyncBN'):
        pytest.skip("the CPU's own BN sums float16 in float16")
    found = steps(*make(norm, DEVICE, dtype, layout), DEVICE, dtype, layout, range(6))
    far = {
        name: round(d, 6)
        for name, d in distances(found, reference[norm.replace('SyncBN', 'BN')]).items()
        if not d < LIMITS[dtype]
    }
    assert not far
    assert {t.dtype for name, t in found.items() if not name.startswith('.output')} == {torch.float32}


@pytest.mark.parametrize('norm', [norm for norm in NORMS if 'CBN' in norm or norm in ('BN', 'secant, window')])
def test_state_goes_on_bit_for_bit(norm):
    """Weights, momentum and windows taken to the CPU after three steps and put into new layers."""
    settings = DEVICE, torch.float32, torch.contiguous_format
    model, optimizer = make(norm, DEVICE)
    steps(model, optimizer, *settings, range(3))
    weights, momentum = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    windows = {
        name: copy.deepcopy(layer.window_state()) for name, layer in model.named_modules() if isinstance(layer, CBN)
    }
    whole = steps(model, optimizer, *settings, range(3, 6))
    model, optimizer = make(norm, DEVICE)
    model.load_state_dict(weights)
    optimizer.load_state_dict(momentum)
    for name, layer in model.named_modules():
        if name in windows:
            layer.load_window_state(windows[name])
    resumed = steps(model, optimizer, *settings, range(3, 6))
    assert whole.keys() == resumed.keys() and not [
        name for name in whole if not torch.equal(whole[name], resumed[name])
    ]


@pytest.mark.parametrize('norm', ['CBN', 'CBN+', 'CBN+GN', 'GN'])
def test_convert_norm(norm):
    """A model with its weights on the GPU is converted there, and trains as on the CPU."""
    found = {}
    for device in ('cpu', DEVICE):
        torch.manual_seed(0)
        model = torchvision.models.resnet18().to(device)
        images = torch.randn(4, 3, 64, 64).to(device)
        report = convert_norm(model, NORMS[norm], example_inputs=images)
        assert not report.left and {t.device.type for t in model.state_dict().values()} == {device}
        for _ in range(2):
            model.zero_grad()
            out = model(images)
            out.square().mean().backward()
        found[device] = tensors(dict(out=out, grad=model.layer4[1].conv2.weight.grad, first=model.conv1.weight.grad))
    assert max(distances(found[DEVICE], found['cpu']).values()) < 1e-2


RUN = (
    'import runpy, sys, torch; torch.backends.cudnn.deterministic = True; sys.argv = sys.argv[1:]; '
    'runpy.run_path(sys.argv[0], run_name="__main__")'
)


@pytest.mark.parametrize('amp', [[], ['--amp']], ids=['float32', 'amp'])
def test_detector_resumes_bit_for_bit(amp, tiny_config, tmp_path):
    """RPN and heads of a Mask R-CNN with CBN, with backbone and neck at a learning rate of 0: RoIAlign's backward, from
    which their gradients come, adds in any order on a GPU."""
    options = [
        'val_cfg=None',
        'val_dataloader=None',
        'val_evaluator=None',
        'optim_wrapper.clip_grad=None',
        *(
            f'optim_wrapper.paramwise_cfg.custom_keys.{part}.{key}_mult=0'
            for part in ('backbone', 'neck')
            for key in ('lr', 'decay')
        ),
    ]

    def train(folder, *words):
        done = subprocess.run(
            [
                sys.executable,
                '-c',
                RUN,
                'tools/train.py',
                tiny_config,
                '--work-dir',
                folder,
                *amp,
                *words,
                '--cfg-options',
                *options,
            ],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])},
        )
        assert done.returncode == 0, done.stdout[-3000:]
        checkpoint = torch.load(folder / 'epoch_2.pth', weights_only=False, map_location='cpu')
        names = [name for name in checkpoint['state_dict'] if name.startswith(('rpn_head', 'roi_head'))]
        assert len(names) > 20
        return tensors({key: checkpoint[key] for key in ('state_dict', 'cbn_window')}), checkpoint['optimizer']

    whole, optimizer = train(tmp_path / 'whole')
    resumed, other = train(tmp_path / 'resumed', '--resume', tmp_path / 'whole' / 'epoch_1.pth')
    assert whole.keys() == resumed.keys() and not [
        name for name in whole if not torch.equal(whole[name], resumed[name])
    ]
    assert optimizer.get('loss_scaler') == other.get('loss_scaler') and ('loss_scaler' in other) == bool(amp)


@pytest.mark.skipif(DEVICE == 'cpu', reason='the CPU launches nothing')
def test_launches_are_counted():
    x = torch.randn(8, device=DEVICE)
    found = traffic(lambda: (x + 1).sum().item())
    assert found.launches >= 2 and found.reads == 1 and found.waits >= 1
