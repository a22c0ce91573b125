"""tools/model_converters/publish_model.py."""
import hashlib
import importlib.util
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmdet.utils.cli import run_main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('publish_model', ROOT / 'tools/model_converters/publish_model.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkpoint(tmp_path):
    log = HistoryBuffer()
    log.update(0.5)
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(meta=dict(epoch=1, dataset_meta=dict(classes=('a', ))), state_dict=dict(w=torch.ones(2)),
                    message_hub=dict(log_scalars=dict(loss=log)), optimizer=dict(state={}), param_schedulers=[],
                    cbn_window=[{}]), path)
    return path


@pytest.mark.parametrize('out', ['new/model', 'new/model.pth'])
def test_published_file(tool, checkpoint, tmp_path, capsys, out):
    tool.main([str(checkpoint), str(tmp_path / out)])
    [path] = (tmp_path / 'new').iterdir()
    assert path.name == f'model-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth'
    assert str(path) in capsys.readouterr().out
    published = torch.load(path, weights_only=True)
    assert set(published) == {'meta', 'state_dict'} and torch.equal(published['state_dict']['w'], torch.ones(2))


def test_save_keys(tool, checkpoint, tmp_path):
    tool.main([str(checkpoint), str(tmp_path / 'x'), '--save-keys', 'state_dict'])
    assert set(torch.load(next(tmp_path.glob('x-*.pth')))) == {'state_dict'}


@pytest.mark.parametrize('spoil, says', [
    (lambda path: path.write_text('hello'), 'not a checkpoint'),
    (lambda path: path.write_bytes(path.read_bytes()[:300]), 'not a checkpoint, or cut off'),
    (lambda path: path.unlink(), 'no such file'),
    (lambda path: torch.save([1], path), 'expected a dict, found a list'),
    (lambda path: torch.save(dict(state_dict=print), path), 'print'),
    (lambda path: torch.save(dict(state_dict={}), path), 'has no meta'),
])
def test_bad_input_is_named_and_nothing_is_written(tool, checkpoint, tmp_path, capsys, spoil, says):
    spoil(checkpoint)
    assert run_main(lambda: tool.main([str(checkpoint), str(tmp_path / 'out')])) == 1
    error = capsys.readouterr().err.split('\nerror: ')[-1]
    assert str(checkpoint) in error and says in error and not list(tmp_path.glob('out*'))
