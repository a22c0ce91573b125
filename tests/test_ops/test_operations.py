"""What a norm costs in operations, that its algebra compiles, and that it needs torch alone."""

import copy
import subprocess
import sys

import pytest
import torch
from reference.norm_trajectories import SETTINGS
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmdet.ops.norm import CBN, build_norm_layer, conv_norm, window

NOTHING = {  # views, and memory that nothing is done with
    'view',
    '_unsafe_view',
    't',
    'transpose',
    'permute',
    'expand',
    'slice',
    'select',
    'unsqueeze',
    'squeeze',
    'detach',
    'alias',
    'as_strided',
    'unbind',
    'split',
    'split_with_sizes',
    'empty',
    'empty_like',
    'empty_strided',
    'new_empty',
}


class Operations(TorchDispatchMode):
    """Counts operations while active."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ not in NOTHING
        return function(*args, **(kwargs or {}))


def operations(cfg: dict, shape: tuple, kernel: int = 3, layers: int = 8, steps: int = 5) -> float:
    """Of convolution, norm and ReLU, forward and backward, for each of a row of layers, in the last of some steps."""
    torch.manual_seed(0)
    channels = shape[1]
    convs = [nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False) for _ in range(layers)]
    norms = [build_norm_layer(cfg, channels)[1] for _ in range(layers)]
    for _ in range(steps):
        for layer in (*convs, *norms):
            layer.zero_grad()
        x = torch.randn(shape).requires_grad_()
        grad = torch.randn(shape)
        with Operations() as seen:
            z = x
            for conv, norm in zip(convs, norms):
                z = F.relu(conv_norm(conv, norm, z), inplace=True)
            z.backward(grad)
        with torch.no_grad():
            for conv in convs:
                conv.weight -= 1e-3 * conv.weight.grad
    return seen.count / layers


@pytest.mark.parametrize(
    'shape, kernel', [((1, 64, 22, 22), 3), ((2, 64, 56, 56), 3), ((1, 64, 48, 48), 1), ((64, 64, 7, 7), 3)]
)
@pytest.mark.parametrize(
    'cfg, most',
    [(dict(type='CBN'), 70), (dict(type='CBN+'), 70), (dict(type='CBN+GN', num_groups=8), 80)],
    ids=['CBN', 'CBN+', 'CBN+GN'],
)
def test_operations_of_a_layer_and_step(cfg, most, shape, kernel):
    """The baseline is 7, BN's; before the algebra was put together they were 105 and 142."""
    assert operations(dict(type='BN'), shape, kernel) == 7
    assert 50 < operations(cfg, shape, kernel) <= most


@pytest.mark.parametrize('name', ['paper', 'secant, rho', 'plus', 'plus, taylor, rho', 'naive', 'plus, naive'])
def test_algebra_compiles_without_a_graph_break(name, monkeypatch):
    """On a backend that needs no compiler; ``compile='auto'`` does the same as plain Python."""
    graphs = []

    def backend(module, inputs):
        graphs.append(sum(node.op == 'call_function' for node in module.graph.nodes))
        return module.forward

    def compiled(function):
        return whole.setdefault(function, torch.compile(function, fullgraph=True, backend=backend))

    whole = {}
    monkeypatch.setattr(window, 'compiles', lambda device: True)
    monkeypatch.setattr(window, '_compiled', compiled)
    torch.manual_seed(0)
    settings = dict(dict(buffer_num=2), **SETTINGS[name])
    conv = nn.Conv2d(4, 6, 3, groups=2).double()
    plain, norm = CBN(6, **settings).double(), CBN(6, compile='auto', **settings).double()
    twin = copy.deepcopy(conv)
    for _ in range(4):
        x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
        out, want = conv_norm(conv, norm, x), conv_norm(twin, plain, x)
        out.sin().sum().backward(), want.sin().sum().backward()
        torch.testing.assert_close((out, conv.weight.grad), (want, twin.weight.grad), rtol=1e-12, atol=1e-12)
        with torch.no_grad():
            conv.weight -= 1e-2 * conv.weight.grad
            twin.weight.copy_(conv.weight)
    used = {function.__name__ for function in whole}
    assert {'carry', 'pool'} <= used and graphs and min(graphs) > 2
    assert ('weight_gradient' in used) == (norm.backprop == 'window')
    assert ('blend' in used) == (norm.pool == 'exponential')
    torch._dynamo.reset()


def test_compiling_is_off_by_default_and_on_a_cpu():
    assert CBN(4).window.compile == 'off' and not window.compiles(torch.device('cpu'))
    with pytest.raises(ValueError, match="compile must be one of 'off', 'auto', got 'always'"):
        CBN(4, compile='always')


ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('mmcv', 'mmengine', 'torchvision'):
            raise ImportError(f'{name} is blocked')
sys.meta_path.insert(0, Blocked())
for name in [name for name in sys.modules if name.partition('.')[0] in ('mmcv', 'mmengine')]:
    del sys.modules[name]
import torch
from torch import nn
from mmdet.ops.norm import convert_norm
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))
x = torch.randn(2, 3, 9, 9)
for name in ('CBN', 'CBN+', 'SyncBN', 'SyncCBN', 'BN'):
    print(convert_norm(model, dict(type=name), example_inputs=x))
    model(x).sum().backward()
assert not any(name.startswith(('mmcv', 'mmengine')) for name in sys.modules)
"""


def test_needs_torch_alone():
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == 'CBN: 2 converted, 0 left as they were'


def test_others_sync_bn_is_not_taken():
    import mmcv.cnn  # noqa: F401  registers torch's
    from mmengine.registry import MODELS as root

    from mmdet.ops.norm import SyncBN
    from mmdet.registry import MODELS

    assert not issubclass(root.get('SyncBN'), SyncBN) and 'CBN' not in root.module_dict
    assert MODELS.get('SyncBN') is SyncBN and MODELS.get('CBN') is CBN
