"""mmdet export, as a user calls it; and the example of docs/deploy.md, which runs without mmdet."""

import importlib.util
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.registry import init_default_scope

from mmdet.apis import inference_detector, init_detector
from mmdet.config import load_config
from mmdet.export import command, formats
from mmdet.run.ending import run_main

WEIGHTS = 'demo/models/mask-rcnn_r18-half_fpn_cbnplus_24e_nuclei-37f3aca5.pth'
CONFIG = 'configs/nuclei/mask-rcnn_r18-half_fpn_cbnplus_24e.py'


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Two images of nuclei, of different size, small enough for a test."""
    folder = tmp_path_factory.mktemp('images')
    stained = cv2.imread(str(ROOT / 'demo/images/nuclei_stained.jpg'))
    cv2.imwrite(str(folder / 'one.png'), stained[:140, :100])
    cv2.imwrite(str(folder / 'two.png'), stained[60:160, 100:290])
    return [str(folder / 'one.png'), str(folder / 'two.png')]


def run(images, *words):
    command.main([str(ROOT / CONFIG), str(ROOT / WEIGHTS), '--images', *images, *map(str, words)])


def test_onnx_and_the_example_without_mmdet(images, tmp_path):
    model = tmp_path / 'nuclei.onnx'
    cfg = tmp_path / 'scaled.py'
    cfg.write_text(
        f"_base_ = '{ROOT / CONFIG}'\n"
        "test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(170, 131), keep_ratio=True),\n"
        "    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]\n"
        'test_dataloader = dict(dataset=dict(pipeline=test_pipeline))\n'
    )
    words = [cfg, ROOT / WEIGHTS, '--dynamic', '--out', model, '--images', *images]
    done = subprocess.run(
        [sys.executable, '-m', 'mmdet', 'export', *map(str, words)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert 'norms folded into convolutions: 34' in done.stdout and 'allowed' in done.stdout
    import onnx

    graph = onnx.load(model).graph
    assert not {node.op_type for node in graph.node} & {'BatchNormalization', 'If', 'Loop'}
    [image] = graph.input
    assert [side.dim_param or side.dim_value for side in image.type.tensor_type.shape.dim] == ['height', 'width', 3]
    assert [output.name for output in graph.output] == ['boxes', 'scores', 'labels', 'masks']

    page = (ROOT / 'docs/deploy.md').read_text()
    (tmp_path / 'detect.py').write_text(re.search(r'```python\n(.*?)```', page, re.S).group(1))
    (tmp_path / 'mmdet.py').write_text('raise ImportError')  # the example has to do without
    ours = init_detector(str(cfg), str(ROOT / WEIGHTS))
    for path in images:
        done = subprocess.run(
            [sys.executable, 'detect.py', str(model), path], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        found = inference_detector(ours, path).pred_instances
        found = found[found.scores >= 0.3]
        assert len(lines) == len(found) > 3 and {line['label'] for line in lines} == {'nucleus'}
        np.testing.assert_allclose([line['box'] for line in lines], found.bboxes, atol=0.01)
        np.testing.assert_allclose([line['score'] for line in lines], found.scores, atol=1e-3)
        np.testing.assert_allclose([line['pixels'] for line in lines], found.masks.sum((1, 2)), atol=2)


@pytest.mark.slow
def test_pt2(images, tmp_path, capsys):
    path = tmp_path / 'new' / 'nuclei.pt2'
    run(images, '--format', 'pt2', '--dynamic', '--out', path)
    assert f'exported: {path}' in capsys.readouterr().out
    extra = {formats.META: ''}
    torch.export.load(str(path), extra_files=extra)
    meta = json.loads(extra[formats.META])
    assert meta['classes'] == ['nucleus'] and meta['scale_factor'] == [1.0, 1.0] and meta['dtype'] == 'float32'
    assert meta['keep_ratio'] and meta['mask_thr_binary'] == 0.5


@pytest.mark.parametrize('words', [[], ['--fp16'], ['--shape', '120', '150']], ids=['', 'fp16', 'shape'])
def test_torchscript(images, tmp_path, words):
    path = tmp_path / 'nuclei.torchscript'
    run(images, '--format', 'torchscript', '--out', path, *(words if '--shape' in words else [*words, '--dynamic']))
    extra = {formats.META: ''}
    script = torch.jit.load(str(path), _extra_files=extra)
    meta = json.loads(extra[formats.META])
    assert meta['dtype'] == ('float16' if words == ['--fp16'] else 'float32')
    assert meta['scale'] == ([150, 120] if '--shape' in words else None)
    halves = [weight.dtype == torch.float16 for weight in script.parameters() if weight.numel() > 1]
    assert halves and all(half == ('--fp16' in words) for half in halves)


@pytest.mark.slow
@pytest.mark.parametrize('kind', formats.FORMATS)
@pytest.mark.parametrize('words', [['--fp16', '--dynamic'], ['--shape', '120', '150']], ids=['fp16', 'shape'])
def test_every_format(images, tmp_path, kind, words):
    run(images, '--format', kind, '--out', tmp_path / 'model', *words)


def test_a_file_that_finds_something_else_is_not_left(images, tmp_path, monkeypatch, capsys):
    fold = command.fold_norms

    def spoil(model, inputs):
        number = fold(model, inputs)
        model.roi_head.mask_head.conv_logits.bias.data += 0.1
        return number

    monkeypatch.setattr(command, 'fold_norms', spoil)
    with pytest.raises(ValueError, match=r'export: torchscript, .*one.png: masks, pasted are not those of the model'):
        run(images, '--format', 'torchscript', '--dynamic', '--out', tmp_path / 'x')
    assert not list(tmp_path.iterdir())


def test_without_the_test_set_noise_is_compared(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    model = init_detector(str(ROOT / CONFIG), str(ROOT / WEIGHTS))
    model.cfg.test_dataloader.dataset.data_root = 'elsewhere/'
    images = command.find_images(model.cfg, None)
    assert list(images) == ['noise', 'noise (part)'] and len({image.shape for image in images.values()}) == 2


def test_images_of_the_test_set(tiny_config):
    cfg = load_config(str(tiny_config))
    init_default_scope('mmdet')
    images = command.find_images(cfg, None)
    assert [image.shape for image in images.values()] == [(64, 64, 3), (64, 48, 3)]  # all are of one size
    assert next(iter(images)).endswith('.jpg') or next(iter(images)).endswith('.png')


def says(capsys, *words):
    assert run_main(lambda: command.main([str(ROOT / CONFIG), str(ROOT / WEIGHTS), *map(str, words)])) == 1
    return capsys.readouterr().err


def test_messages(images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = says(capsys, '--format', 'torchscript', '--images', *images)
    assert 'Resize has no scale' in words and 'give --shape HEIGHT WIDTH, or --dynamic' in words
    words = says(capsys, '--format', 'torchscript', '--shape', 64, 200, '--images', *images)
    assert 'images must have 65 pixels or more on each side, got 200 x 64' in words
    assert 'none.jpg: no such file' in says(capsys, '--dynamic', '--images', 'none.jpg')
    (tmp_path / 'text.jpg').write_text('text')
    assert 'text.jpg: cannot be read' in says(capsys, '--dynamic', '--images', 'text.jpg')
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *rest: None if 'onnx' in name else find(name, *rest))
    words = says(capsys, '--dynamic', '--images', *images)
    assert "onnx and onnxscript and onnxruntime must be installed: pip install 'mmdet-cbn[export]'" in words
    with pytest.raises(SystemExit):
        command.parse_args(['a', 'b', '--dynamic', '--shape', '1', '2'])
    assert not [path for path in tmp_path.iterdir() if path.name != 'text.jpg']
