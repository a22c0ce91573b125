"""mmdet/io/checkpoint.py: which files are read, from where, and that nothing in them runs."""

import os
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim import MultiStepLR, OneCycleLR
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmdet.io.checkpoint import dataset_meta, load_checkpoint_file, trust_checkpoints
from mmdet.models.backbones import ResNet

FORMATS = dict(zip=True, legacy=False)


class Runs:
    """What a hostile file holds: unpickled, it makes a file."""

    def __init__(self, path, function):
        self.call = dict(
            eval=(eval, (f'open({str(path)!r}, "w").close()',)),
            system=(os.system, (f'touch {path}',)),
            getattr=(getattr, (HistoryBuffer.update, '__globals__')),
        )[function]

    def __reduce__(self):
        return self.call


def save(content, path, kind='zip'):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, _use_new_zipfile_serialization=FORMATS[kind])
    return str(path)


def run_state():
    """A checkpoint as mmengine's runner and our hooks write it."""
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedulers = [MultiStepLR(optimizer, milestones=[1, 2]), OneCycleLR(optimizer, eta_max=0.1, total_steps=5)]
    log = HistoryBuffer([0.5, 0.25], [1, 1])
    meta = dict(
        epoch=1,
        cfg='model = dict()',
        time='20240101_000000',
        dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3), (4, 5, 6)], more=ConfigDict(x=dict(y=1))),
    )
    return dict(
        meta=meta,
        state_dict=net.state_dict(),
        optimizer=optimizer.state_dict(),
        param_schedulers=[scheduler.state_dict() for scheduler in schedulers],
        message_hub=dict(
            log_scalars=dict(loss=log),
            resumed_keys=dict(loss=True),
            runtime_info=dict(
                best_score=np.float64(0.5),
                seen=np.arange(3),
                flags=np.array([True]),
                size=np.int64(7),
                names=np.array(['a']),
            ),
        ),
        cbn_window=[{'norm': dict(step=3, window=[torch.ones(2)])}],
    )


@pytest.mark.parametrize('kind', FORMATS)
def test_what_a_run_writes_is_read(tmp_path, kind):
    before = torch.serialization.get_safe_globals()
    saved = run_state()
    read = load_checkpoint_file(save(saved, tmp_path / 'x.pth', kind))
    info = read['message_hub']['runtime_info']
    assert read['meta'] == saved['meta'] and info['best_score'] == 0.5 and info['seen'].tolist() == [0, 1, 2]
    assert read['message_hub']['log_scalars']['loss'].mean() == 0.375
    assert read['param_schedulers'][1]['anneal_func'](1.0, 0.0, 0.5) == pytest.approx(0.5)
    assert read['param_schedulers'][0]['milestones'] == {1: 1, 2: 1}
    assert torch.equal(
        read['optimizer']['state'][0]['momentum_buffer'], saved['optimizer']['state'][0]['momentum_buffer']
    )
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize('kind', FORMATS)
def test_file_of_mmdetection_2_with_arrays_of_numpy_1(tmp_path, kind):
    meta = dict(
        mmdet_version='2.3.0',
        CLASSES=('a', 'b'),
        PALETTE=[(1, 2, 3)],
        epoch=np.int64(12),
        env_info='torch 1.5',
        hook_msgs=dict(best_score=np.float32(0.25)),
        mean=np.ones(3),
    )
    path = tmp_path / 'old.pth'
    save(dict(meta=meta, state_dict=dict(w=torch.ones(2))), path, kind)
    new, old = b'numpy._core.multiarray\n', b'numpy.core.multiarray\n'
    if kind == 'zip':
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, 'w') as archive:
            for name, data in content.items():
                archive.writestr(name, data.replace(new, old) if name.endswith('data.pkl') else data)
    else:
        path.write_bytes(path.read_bytes().replace(new, old))
    assert old in path.read_bytes() and new not in path.read_bytes()
    read = load_checkpoint_file(str(path))
    assert read['meta']['epoch'] == 12 and read['meta']['mean'].tolist() == [1, 1, 1]
    assert dataset_meta(read) == dict(classes=('a', 'b'), palette=[(1, 2, 3)])


READERS = dict(
    file=lambda path: load_checkpoint_file(path),
    runner=lambda path: CheckpointLoader.load_checkpoint(path),  # load_from, resume
    pretrained=lambda path: ResNet(
        18, base_channels=8, init_cfg=dict(type='Pretrained', checkpoint=path)
    ).init_weights(),
    prefix=lambda path: ResNet(
        18, base_channels=8, init_cfg=dict(type='Pretrained', prefix='w', checkpoint=path)
    ).init_weights(),
    url=lambda path: CheckpointLoader.load_checkpoint(f'https://x.org/y/{Path(path).name}'),
    torchvision=lambda path: CheckpointLoader.load_checkpoint('torchvision://resnet18'),
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Folder of torch's downloads; nothing can be downloaded."""

    def download(url, path, *args, **kwargs):
        raise URLError('no network')

    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'mmengine'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    return tmp_path / 'home/hub/checkpoints'


@pytest.mark.parametrize(
    'function, named, kind',
    [
        ('eval', 'holds eval,', 'zip'),
        ('eval', 'holds eval,', 'legacy'),
        ('system', r'holds \w+\.system,', 'zip'),
        ('system', r'holds \w+\.system,', 'legacy'),
        ('getattr', 'holds getattr,', 'zip'),
    ],
)
@pytest.mark.parametrize('reader', READERS)
def test_code_is_refused_on_every_way_and_does_not_run(cache, tmp_path, reader, function, named, kind):
    # Where URLs are looked for, under torchvision's name.
    path = save(dict(state_dict=dict(w=Runs(tmp_path / 'ran', function))), cache / 'resnet18-f37072fd.pth', kind)
    with pytest.raises(ValueError, match=f'{path}: {named}(.|\n)*--trust-checkpoint'):
        READERS[reader](path)
    assert not (tmp_path / 'ran').exists()


def test_text_that_mmengine_would_run_is_left_out(tmp_path):
    path = save(
        dict(meta=dict(config=f'open({str(tmp_path / "ran")!r}, "w")', epoch=0, iter=0), state_dict={}),
        tmp_path / 'x.pth',
    )
    for load, runs in ((CheckpointLoader.load_checkpoint, False), (torch.load, True)):
        runner = SimpleNamespace(load_checkpoint=load, train_loop=SimpleNamespace())
        with pytest.raises(AttributeError):  # behind the text, where this runner ends
            Runner.resume(runner, path, map_location='cpu')
        assert (tmp_path / 'ran').exists() == runs


def test_trust_lasts_as_long_as_it_is_asked_for(tmp_path):
    path = save(dict(state_dict={}, more=Runs(tmp_path / 'ran', 'eval')), tmp_path / 'x.pth')
    with pytest.raises(RuntimeError, match='own'), trust_checkpoints():
        with trust_checkpoints(False), pytest.raises(ValueError):
            CheckpointLoader.load_checkpoint(path)
        assert not (tmp_path / 'ran').exists()
        CheckpointLoader.load_checkpoint(path)
        assert (tmp_path / 'ran').exists()
        raise RuntimeError('own')
    (tmp_path / 'ran').unlink()
    with pytest.raises(ValueError):
        CheckpointLoader.load_checkpoint(path)
    load_checkpoint_file(path, trust=True)
    assert (tmp_path / 'ran').exists()


def test_no_loader_is_left_to_mmengine():
    assert {loader.__module__ for loader in CheckpointLoader._schemes.values()} == {'mmdet.io.checkpoint'}


@pytest.mark.parametrize('kind', FORMATS)
def test_damaged_file_is_named(tmp_path, kind):
    path = tmp_path / 'x.pth'
    whole = Path(save(run_state(), path, kind)).read_bytes()
    for length in (0, 1, 2, 50, 300, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f'{path}: not a checkpoint'):
            load_checkpoint_file(str(path))


@pytest.mark.parametrize('content, says', [([1], 'expected a dict, found a list'), (torch.ones(2), 'found a Tensor')])
def test_file_of_something_else(tmp_path, content, says):
    with pytest.raises(ValueError, match=says):
        load_checkpoint_file(save(content, tmp_path / 'x.pth'))


def test_plain_pickle_is_no_checkpoint(tmp_path):
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(dict(state_dict={}), protocol=2))
    with pytest.raises(ValueError, match='not a checkpoint, or damaged'):
        load_checkpoint_file(str(tmp_path / 'x.pkl'))


# -- weights by name or URL ---------------------------------------------------------------------------------------

URLS = [
    ('torchvision://resnet50', 'resnet50-0676ba61.pth', 'https://download.pytorch.org/models/resnet50-0676ba61.pth'),
    ('torchvision://resnet50.imagenet1k_v2', 'resnet50-11ad3fa6.pth', 'https://download.pytorch.org/models/resnet50-'),
    ('open-mmlab://detectron2/resnet50_caffe', 'resnet50_msra-5891d200.pth', r'https://\S+/resnet50_msra-5891d200.pth'),
    ('open-mmlab://resnet50_caffe', 'resnet50_caffe-788b5fa3.pth', r'https://\S+/resnet50_caffe-788b5fa3.pth'),
    ('http://x.org/a/b-1234.pth?raw=1', 'b-1234.pth', 'http://x.org/a/b-1234.pth'),
]


@pytest.mark.parametrize('name, file, url', URLS)
def test_weights_by_name_come_from_the_cache(cache, name, file, url):
    with pytest.raises(FileNotFoundError, match=rf'(?s){cache / file}.*{url}.*no network.*init_cfg=None'):
        CheckpointLoader.load_checkpoint(name)
    save(dict(w=torch.full((2,), 3.0)), cache / file)
    assert CheckpointLoader.load_checkpoint(name)['w'].tolist() == [3, 3]


def test_backbone_from_the_cache(cache):
    net = ResNet(18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'))
    with pytest.raises(FileNotFoundError, match=f'torchvision://resnet18.*{cache}/resnet18-f37072fd.pth'):
        net.init_weights()
    weights = {key: torch.full_like(value, 2) for key, value in net.state_dict().items()}
    save(weights, cache / 'resnet18-f37072fd.pth', 'legacy')
    net.init_weights()
    assert all((value == 2).all() for value in net.state_dict().values())


def test_download_is_kept_unless_it_is_no_checkpoint(cache, tmp_path, monkeypatch):
    asked = []

    def download(content):
        def write(url, path, *args, **kwargs):
            asked.append(url)
            Path(path).write_bytes(content)

        monkeypatch.setattr(torch.hub, 'download_url_to_file', write)

    download(b'<html>Please log in</html>')
    with pytest.raises(FileNotFoundError, match='y.pth.*not a checkpoint'):
        CheckpointLoader.load_checkpoint('https://x.org/y.pth')
    assert not list(cache.iterdir())
    download(Path(save(dict(w=torch.ones(1)), tmp_path / 'y.pth')).read_bytes())
    for _ in range(2):
        assert CheckpointLoader.load_checkpoint('https://x.org/y.pth')['w'].tolist() == [1]
    assert asked == ['https://x.org/y.pth'] * 2


@pytest.mark.parametrize(
    'name, nearest',
    [('torchvision://resnet5', 'resnet50'), ('open-mmlab://detectron2/resnet50_cafe', 'detectron2/resnet50_caffe')],
)
def test_name_that_there_is_not(cache, name, nearest):
    with pytest.raises(KeyError, match=f'{name}: there is no such model; nearest.*{nearest}'):
        CheckpointLoader.load_checkpoint(name)


@pytest.mark.parametrize(
    'meta, expected',
    [
        (
            dict(dataset_meta=dict(classes=['a', 'b'], palette=[(1, 2, 3)])),
            dict(classes=('a', 'b'), palette=[(1, 2, 3)]),
        ),
        (dict(dataset_meta=dict(CLASSES=('a',), PALETTE=None)), dict(classes=('a',))),
        (dict(CLASSES='person'), dict(classes=('person',))),
        (dict(epoch=1), None),
        (dict(dataset_meta={}), None),
        (None, None),
    ],
)
def test_dataset_meta(meta, expected):
    assert dataset_meta(dict(meta=meta)) == expected
    assert dataset_meta({}) is None
