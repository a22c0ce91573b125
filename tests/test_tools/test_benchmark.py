"""tools/analysis_tools/benchmark.py."""

import itertools
import re

import pytest
import torch
from conftest import load_tool
from mmcv.cnn import fuse_conv_bn
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmdet.ops.norm import CBN
from mmdet.registry import MODELS
from mmdet.run.ending import run_main


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/analysis_tools/benchmark.py')


@pytest.mark.skipif(torch.cuda.is_available(), reason='the numbers expected are those of CPU timing')
def test_inference(tool, tiny_config, capsys, monkeypatch):
    calls, seconds = [], itertools.cycle([0.1, 0.2, 0.4])
    monkeypatch.setattr(tool, 'timed', lambda work, device: (calls.append(work() and device), next(seconds))[1])
    tool.main(
        [
            str(tiny_config),
            '--max-iter',
            '3',
            '--num-warmup',
            '1',
            '--log-interval',
            '2',
            '--repeat-num',
            '2',
            '--fuse-conv-bn',
            '--cfg-options',
            'test_dataloader.batch_size=2',
        ]
    )
    output = capsys.readouterr().out
    assert calls == ['cpu'] * 6 and 'test set, 5 images; CPU, 1 thread' in output
    # 5 images in batches of 2, 2 and 1
    assert output.count('2 batches: 13.33 images/s, 75.0 ms an image') == 2
    assert 'ms a batch: mean 233.3, median 200.0' in output and 'longest 400.0' in output
    assert 'inference: 7.14 images/s (mean of 2 runs, standard deviation 0.00); peak resident memory' in output


@pytest.mark.parametrize(
    'options, places',
    [
        (
            ['--task', 'dataloader', '--dataset-type', 'train'],
            ['train set, 6 images; 0 workers', '2 batches: ', 'a batch'],
        ),
        (['--task', 'dataset'], ['test set, 5 images; this process', '2 images: ', '4 images: ', 'an image: mean']),
    ],
)
def test_reading(tool, tiny_config, capsys, options, places):
    tool.main([str(tiny_config), *options, '--num-warmup', '1', '--log-interval', '2'])
    output = capsys.readouterr().out
    assert all(words in output for words in places), output
    speed, spread = re.search(rf'^{options[1]}: ([0-9.]+) images/s(.*); peak', output, re.M).groups()
    assert float(speed) > 0 and spread == ''


def test_images_are_counted(tool):
    args = tool.parse_args(['c', '--max-iter', '2', '--num-warmup', '1'])
    one, three = dict(inputs=torch.zeros(3, 4, 4)), dict(inputs=[torch.zeros(3, 4, 4)] * 3)
    stacked = dict(inputs=torch.zeros(5, 3, 4, 4))
    assert [images for _, images in tool.read_times(args, [one, three, stacked, one])] == [3, 5]


def test_fused_model_is_the_same(tiny_config):
    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(tiny_config).model).eval()
    for module in model.modules():
        if isinstance(module, CBN):
            for values in (module.running_mean, module.bias.data):
                nn.init.normal_(values)
            for values in (module.running_var, module.weight.data):
                nn.init.uniform_(values, 0.5, 2)
    image, regions = torch.randn(1, 3, 64, 64), torch.randn(2, 16, 14, 14)
    with torch.no_grad():
        before = (*model.extract_feat(image), model.roi_head.mask_head(regions))
        fuse_conv_bn(model)
        after = (*model.extract_feat(image), model.roi_head.mask_head(regions))
    assert not any(isinstance(module, CBN) for module in (*model.backbone.modules(), *model.neck.modules()))
    for one, other in zip(before, after):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3 * one.abs().max().item())


@pytest.mark.parametrize(
    'options, says',
    [
        (['--checkpoint', 'absent.pth'], 'absent.pth: no such file'),
        (['--task', 'dataset', '--num-warmup', '9'], '--num-warmup 9: nothing is left to time'),
        (['--task', 'dataset', '--cfg-options', 'test_dataloader.dataset.data_root=absent/'], 'absent/ does not exist'),
    ],
)
def test_errors(tool, tiny_config, capsys, options, says):
    assert run_main(lambda: tool.main([str(tiny_config), *options])) == 1
    assert says in capsys.readouterr().err.split('\nerror: ')[-1]


@pytest.mark.parametrize(
    'options',
    [['--task', 'training'], ['--max-iter', '0'], ['--num-warmup', '-1'], ['--task', 'dataset', '--fuse-conv-bn']],
)
def test_usage_errors(tool, options):
    with pytest.raises(SystemExit) as error:
        tool.main(['config.py', *options])
    assert error.value.code == 2
