"""Detectors in a folder and on the Hub, which a stand-in plays here; detections for supervision."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmdet.apis import from_pretrained, inference_detector, init_detector, push_to_hub, save_pretrained
from mmdet.structures import DetDataSample


@pytest.fixture(scope='module')
def model(tiny_config):
    torch.manual_seed(0)
    return init_detector(str(tiny_config), cfg_options={'work_dir': '/home/someone/run'})


def same(one, other):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    a, b = (inference_detector(each, image).pred_instances for each in (one, other))
    return len(a) and all(torch.equal(a[key], b[key]) for key in ('bboxes', 'scores', 'labels', 'masks'))


def test_through_a_folder(model, tmp_path):
    path = save_pretrained(model, tmp_path / 'new', 'me/shapes')
    assert path == tmp_path / 'new' / 'model.safetensors' and b'someone' not in path.read_bytes()
    assert "from_pretrained('me/shapes')" in (tmp_path / 'new' / 'README.md').read_text()
    loaded = from_pretrained(tmp_path / 'new')
    assert same(model, loaded) and not loaded.training
    assert tuple(loaded.dataset_meta['classes']) == tuple(model.dataset_meta['classes'])
    (tmp_path / 'new' / 'README.md').write_text('my own words')
    save_pretrained(loaded, tmp_path / 'new')
    assert (tmp_path / 'new' / 'README.md').read_text() == 'my own words'


class Api:
    """A Hub of one folder."""

    root = Path()
    calls: list = []

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, private=False, exist_ok=False):
        assert exist_ok
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        self.calls.append((repo_id, private, self.token))

    def file_exists(self, repo_id, name):
        return (self.root / repo_id / name).exists()

    def upload_folder(self, repo_id, folder_path, commit_message):
        for path in Path(folder_path).iterdir():
            path.rename(self.root / repo_id / path.name)
        return SimpleNamespace(commit_url=f'https://hub/{repo_id}/{commit_message}')


def test_through_the_hub(model, tmp_path, monkeypatch):
    monkeypatch.setattr(Api, 'root', tmp_path)
    monkeypatch.setattr(huggingface_hub, 'HfApi', Api)
    monkeypatch.setattr(
        huggingface_hub, 'hf_hub_download', lambda repo, name, revision=None: str(tmp_path / repo / name)
    )
    assert push_to_hub(model, 'me/shapes', private=True, token='t', message='first') == 'https://hub/me/shapes/first'
    assert Api.calls == [('me/shapes', True, 't')]
    (tmp_path / 'me/shapes/README.md').write_text('my own words')
    push_to_hub(model, 'me/shapes')
    assert (tmp_path / 'me/shapes/README.md').read_text() == 'my own words'
    monkeypatch.chdir('/')
    assert same(model, from_pretrained('me/shapes', revision='main'))


def test_messages(tmp_path, monkeypatch):
    def absent(*args, **kwargs):
        raise OSError('no connection\nat all')

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', absent)
    with pytest.raises(FileNotFoundError, match=r'me/none: no such folder, and not on the Hub \(no connection\)'):
        from_pretrained('me/none')
    with pytest.raises(FileNotFoundError, match='model.safetensors'):
        from_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ImportError, match=r"pip install 'mmdet-cbn\[hub\]'"):
        from_pretrained('me/none')


@pytest.mark.parametrize('number', [0, 2])
def test_to_supervision(monkeypatch, number):
    sample = DetDataSample()
    sample.pred_instances = InstanceData(
        bboxes=torch.rand(number, 4),
        scores=torch.rand(number),
        labels=torch.arange(number),
        masks=torch.ones(number, 5, 6, dtype=torch.bool),
    )
    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(ImportError, match='pip install supervision'):
        sample.to_supervision()
    stand_in = ModuleType('supervision')
    stand_in.Detections = SimpleNamespace
    monkeypatch.setitem(sys.modules, 'supervision', stand_in)
    made = sample.to_supervision(['a', 'b'])
    assert made.xyxy.shape == (number, 4) and made.confidence.dtype == np.float32 and made.class_id.dtype == int
    assert (made.mask is None) == (number == 0) and made.data['class_name'].tolist() == ['a', 'b'][:number]
    assert sample.to_supervision().data == {}
