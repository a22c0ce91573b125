"""mmdet/analysis/flops.py against a count by hand, and tools/analysis_tools/get_flops.py."""

import re

import pytest
import torch
from conftest import ROOT, load_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmdet.analysis.flops import Workload, count, short
from mmdet.registry import MODELS
from mmdet.run.ending import run_main


def build(path, **options):
    init_default_scope('mmdet')
    config = Config.fromfile(path)
    config.merge_from_dict(options)
    with torch.device('meta'):  # no time for weights
        return MODELS.build(dict(config.model, data_preprocessor=None))


def by_hand(model, height, width):
    """Multiply-adds by the sizes of what the convolutions and linear layers give out."""
    found = {}

    def add(name, module, output):
        kernel = 1 if isinstance(module, nn.Linear) else module.weight[0, 0].numel()
        if isinstance(module, nn.ConvTranspose2d):  # each input meets each weight of its channel; stride = kernel here
            assert module.stride == module.kernel_size
            kernel = 1
        inner = module.in_features if isinstance(module, nn.Linear) else module.in_channels // module.groups
        found[name] = found.get(name, 0) + output.numel() * inner * kernel

    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: add(name, module, output))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    ]
    with torch.no_grad():
        Workload(model)(torch.empty(1, 3, height, width, device='meta'))
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(
    'config',
    [
        'nuclei/mask-rcnn_r18_fpn_cbnplus.py',
        'mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py',
        'gn+ws/mask-rcnn_x50-32x4d_fpn_gn-ws-all_2x_coco.py',
        'tiny',
    ],
)
def test_against_a_count_by_hand(config, request):
    path = request.getfixturevalue('tiny_config') if config == 'tiny' else ROOT / 'configs' / config
    model = build(path).to('meta').eval()
    expected = by_hand(model, 96, 160)
    found = count(model, 90, 159, 32, depth=9)
    assert found.shape == (96, 160)
    for row in found.rows:
        inside = [macs for name, macs in expected.items() if not row.name or f'{name}.'.startswith(f'{row.name}.')]
        assert row.macs == sum(inside) > 0, row.name
    names = [row.name for row in found.rows]
    assert (
        names[0] == ''
        and set(expected) <= set(names)
        and found.rows[0].parameters == sum(one.numel() for one in model.parameters())
    )


def test_known_numbers():
    # ResNet-18 at 224 pixels: 1.81 G (He et al., CVPR 2016: 1.8), of them 512000 of its classifier, not here
    rows = {row.name: row for row in count(build(ROOT / 'configs/nuclei/mask-rcnn_r18_fpn_bn.py'), 224, 224).rows}
    assert rows['backbone'].macs == 1_814_073_344 - 512_000
    assert rows['backbone'].parameters == 11_689_512 - 513_000


def test_numbers_of_proposals_and_masks():
    model = build(ROOT / 'configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    assert (count(model, 800, 1280).proposals, count(model, 800, 1280).masks) == (1000, 100)
    assert count(model, 32, 32).proposals == 3 * (64 + 16 + 4 + 1 + 1)  # no more anchors than that


def test_short():
    assert [short(value) for value in (0, 12, 1500, 41.53e6, 2.6e11, 5e12)] == [
        '0',
        '12',
        '1.50 K',
        '41.53 M',
        '260.00 G',
        '5.00 T',
    ]
    assert short(4e6, 'G') == '0.00 G'


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/analysis_tools/get_flops.py')


def test_tool(tool, tiny_config, capsys):
    tool.main([str(tiny_config), '--shape', '60', '70'])
    output = capsys.readouterr().out
    expected = count(build(tiny_config), 60, 70, 32).rows
    assert 'Input shape: 64 x 96' in output and f'FLOPs: {short(expected[0].macs)} multiply-adds' in output
    assert re.search(r'\|   mask_head +\| ', output) and f'Parameters: {short(expected[0].parameters)}' in output
    tool.main([str(tiny_config), '--num-images', '2'])
    output = capsys.readouterr().out
    assert 'Mean of 2 images: FLOPs from' in output and 'padded heights 64 to 64, widths 64 to 64' in output


def test_errors(tool, tiny_config, capsys):
    command = [str(tiny_config), '--cfg-options', 'test_dataloader.dataset.data_root=absent/']
    assert run_main(lambda: tool.main(command)) == 1
    assert 'absent/ does not exist' in (error := capsys.readouterr().err) and 'or give --shape HEIGHT WIDTH' in error
    for options in (
        ['--shape', '0', '5'],
        ['--shape', '1', '2', '3'],
        ['--shape', '9', '--num-images', '3'],
        ['--num-images', '0'],
    ):
        with pytest.raises(SystemExit) as error:
            tool.main([str(tiny_config), *options])
        assert error.value.code == 2
