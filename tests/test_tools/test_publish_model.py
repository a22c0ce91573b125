"""tools/model_converters/publish_model.py."""

import hashlib

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import load_tool
from mmengine.logging import HistoryBuffer

from mmdet.apis import DetInferencer, init_detector
from mmdet.io.checkpoint import load_checkpoint_file
from mmdet.run.ending import run_main


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/model_converters/publish_model.py')


@pytest.fixture
def checkpoint(tmp_path):
    log = HistoryBuffer()
    log.update(0.5)
    path = tmp_path / 'epoch_1.pth'
    torch.save(
        dict(
            meta=dict(epoch=1, dataset_meta=dict(classes=('a',))),
            state_dict=dict(w=torch.ones(2)),
            message_hub=dict(log_scalars=dict(loss=log)),
            optimizer=dict(state={}),
            param_schedulers=[],
            cbn_window=[{}],
        ),
        path,
    )
    return path


@pytest.mark.parametrize('out', ['new/model', 'new/model.pth'])
def test_published_file(tool, checkpoint, tmp_path, capsys, out):
    tool.main([str(checkpoint), str(tmp_path / out)])
    [path] = (tmp_path / 'new').iterdir()
    assert path.name == f'model-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth'
    assert str(path) in capsys.readouterr().out
    published = torch.load(path, weights_only=True)
    assert set(published) == {'meta', 'state_dict'} and torch.equal(published['state_dict']['w'], torch.ones(2))


def test_save_keys(tool, checkpoint, tmp_path, capsys):
    tool.main([str(checkpoint), str(tmp_path / 'x'), '--save-keys', 'state_dict'])
    assert set(torch.load(next(tmp_path.glob('x-*.pth')))) == {'state_dict'}
    with pytest.raises(SystemExit):
        tool.main([str(checkpoint), str(tmp_path / 'y'), '--save-keys', 'state_dict', '--safetensors'])
    assert '--save-keys state_dict: a file of --safetensors holds meta and' in capsys.readouterr().err
    assert not list(tmp_path.glob('y*'))


@pytest.mark.parametrize(
    'spoil, says',
    [
        (lambda path: path.write_text('hello'), 'not a checkpoint'),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), 'not a checkpoint, or cut off'),
        (lambda path: path.unlink(), 'no such file'),
        (lambda path: torch.save([1], path), 'expected a dict, found a list'),
        (lambda path: torch.save(dict(state_dict=print), path), 'print'),
        (lambda path: torch.save(dict(state_dict={}), path), 'has no meta'),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tool, checkpoint, tmp_path, capsys, spoil, says):
    spoil(checkpoint)
    assert run_main(lambda: tool.main([str(checkpoint), str(tmp_path / 'out')])) == 1
    error = capsys.readouterr().err.split('\nerror: ')[-1]
    assert str(checkpoint) in error and says in error and not list(tmp_path.glob('out*'))


@pytest.fixture
def trained(tiny_config, tmp_path):
    """A checkpoint as training writes it, of a model whose weights are random."""
    model = init_detector(str(tiny_config))
    for key, value in model.state_dict().items():
        if key.endswith('running_var'):
            value.copy_(torch.rand_like(value) * 1e-7)  # nearly nothing is left of these in float16
    model.cfg.work_dir = '/home/someone/run'
    path = tmp_path / 'epoch_2.pth'
    torch.save(
        dict(
            meta=dict(
                cfg=model.cfg.pretty_text, epoch=2, experiment_name='run', dataset_meta=dict(classes=('a', 'b', 'c'))
            ),
            state_dict=model.state_dict(),
            optimizer=dict(state={}),
        ),
        path,
    )
    return path, model


def test_half_needs_no_config_and_is_loaded_as_float32(tool, trained, tiny_config, tmp_path):
    path, model = trained
    tool.main([str(path), str(tmp_path / 'small'), '--half'])
    [small] = tmp_path.glob('small-*.pth')
    assert small.stat().st_size < 0.62 * path.stat().st_size
    meta = torch.load(small, weights_only=True)['meta']
    assert set(meta) == {'cfg', 'dataset_meta'} and len(meta['dataset_meta']['palette']) == 3
    assert 'work_dir' not in meta['cfg'] and 'someone' not in meta['cfg']
    from_file = DetInferencer(weights=str(small), device='cpu', show_progress=False)
    for loaded in (from_file.model, init_detector(str(tiny_config), str(small))):
        for key, value in loaded.state_dict().items():
            was = model.state_dict()[key]
            assert value.dtype == was.dtype
            kept = key.endswith(('running_mean', 'running_var')) or not was.is_floating_point()
            assert torch.equal(value, was if kept else was.half().float()), key
    assert from_file.model.dataset_meta['classes'] == ('a', 'b', 'c')
    found = from_file(np.zeros((64, 64, 3), np.uint8))['predictions'][0]
    assert len(found['scores']) == len(found['masks'])


@pytest.mark.parametrize('half', [False, True])
def test_safetensors(tool, trained, tiny_config, tmp_path, half):
    """The same weights, read by every way in, from a file that another program reads too."""
    path, model = trained
    tool.main([str(path), str(tmp_path / 'small.safetensors'), '--safetensors', *(['--half'] if half else [])])
    [safe] = tmp_path.glob('small-*.safetensors')
    assert safe.name == f'small-{hashlib.sha256(safe.read_bytes()).hexdigest()[:8]}.safetensors'
    plain = safetensors.torch.load_file(safe)
    assert plain.keys() == model.state_dict().keys()
    assert (plain['backbone.conv1.weight'].dtype == torch.float16) == half
    from_file = DetInferencer(weights=str(safe), device='cpu', show_progress=False)
    for loaded in (from_file.model, init_detector(str(tiny_config), str(safe))):
        for key, value in loaded.state_dict().items():
            was = model.state_dict()[key]
            assert torch.equal(value, was) or half and torch.equal(value, was.half().float()), key
    assert from_file.model.dataset_meta['classes'] == ('a', 'b', 'c')
    assert 'someone' not in safe.read_bytes()[:100000].decode('latin1')


def test_safetensors_that_are_none(trained, tmp_path):
    """Cut off, of other text, with metadata that is no JSON, or of another model."""
    weights = {'w': torch.ones(3)}
    good = safetensors.torch.save(weights, metadata=dict(meta='{}'))
    for data, says in (
        (good[:-3], 'not a safetensors file, or cut off'),
        (b'hello', 'not a safetensors file, or cut off'),
        (b'', 'not a safetensors file, or cut off'),
        (safetensors.torch.save(weights, metadata=dict(meta='{')), "metadata 'meta' is no JSON"),
        (safetensors.torch.save(weights, metadata=dict(meta='[1]')), "metadata 'meta' must be an object, got list"),
        (safetensors.torch.save(weights, metadata=dict(meta='{"dataset_meta": 3}')), 'dataset_meta must be a dict'),
    ):
        path = tmp_path / 'bad.safetensors'
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f'{path}: .*{says}'):
            load_checkpoint_file(str(path))
    (tmp_path / 'plain.safetensors').write_bytes(safetensors.torch.save(weights))  # of another program
    loaded = load_checkpoint_file(str(tmp_path / 'plain.safetensors'))
    assert loaded['meta'] == {} and torch.equal(loaded['state_dict']['w'], weights['w'])


@pytest.mark.parametrize(
    'spoil, says',
    [
        (lambda saved: saved['meta'].pop('cfg'), r"no config under meta\['cfg'\]"),
        (lambda saved: saved['state_dict']['backbone.conv1.weight'].fill_(1e6), 'backbone.conv1.weight holds 1e.06'),
        (lambda saved: saved['state_dict']['backbone.conv1.weight'].fill_(float('nan')), 'backbone.conv1.weight'),
    ],
)
def test_what_cannot_be_halved(tool, trained, tmp_path, spoil, says):
    path = trained[0]
    saved = torch.load(path, weights_only=True)
    spoil(saved)
    torch.save(saved, path)
    with pytest.raises(ValueError, match=f'{path}.*{says}'):
        tool.main([str(path), str(tmp_path / 'small'), '--half'])
    assert not list(tmp_path.glob('small*'))
