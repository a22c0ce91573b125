"""Weights by name: the index, and downloads from a server on this machine."""

import hashlib
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import ROOT
from mmengine.runner.checkpoint import CheckpointLoader

from mmdet.apis import init_detector
from mmdet.cli import test as test_command
from mmdet.cli import train, training
from mmdet.io import download, published
from mmdet.io.checkpoint import check_checkpoint_file, load_checkpoint_file
from mmdet.io.published import find_weights, place_of

NAME = 'mask-rcnn_r50_fpn_1x_coco'
DEMO = 'mask-rcnn_r18-half_fpn_cbnplus_24e'


def fork(function, *arguments):
    process = multiprocessing.get_context('fork').Process(target=function, args=arguments)
    process.start()
    return process


# -- the index ----------------------------------------------------------------------------------------------------


def test_index():
    listed = yaml.safe_load((ROOT / 'configs/metafile.yml').read_text())['Models']
    assert {model['Name'] for model in listed} == set(published.published())
    digests = {Path(entry['weights']).name: entry['sha256'] for entry in _demo_models().values()}
    files, names = [], []
    for model in listed:
        assert model['Name'] == str(Path(model['Config']).relative_to('configs').with_suffix(''))
        place = model.get('Weights')
        if place is None:
            continue
        files.append(Path(place).name)
        names.append(Path(model['Name']).name)
        digits = re.fullmatch(r'[\w.-]+-([0-9a-f]{8})\.pth', files[-1]).group(1)
        if '://' in place:
            assert place.startswith('https://download.openmmlab.com/mmdetection/v2.0/')
            assert _words(Path(place).parent.name) == _words(names[-1]) or 'fpn_1x_coco/' in place, place
        else:
            assert digests.pop(files[-1]).startswith(digits) and (ROOT / place).is_file()
    assert not digests and len(set(files)) == len(files) == len(set(names)) > 60


def _demo_models():
    return json.loads((ROOT / 'demo/models.json').read_text())


def _words(name):
    """The words of a name in mmdetection 2's or 3's spelling."""
    name = name.replace('mstrain', 'ms').replace('fp16', 'amp').replace('tnr-pretrain', 'tnr-pre')
    return sorted(re.split('[-_]', name))


@pytest.mark.parametrize(
    'name, says',
    [
        ('mask-rcnn_r50_fpn_1x_coc', rf"no such file, and no config with published weights .*nearest: '{NAME}'"),
        ('mask_rcnn_r50_fpn_1x_coco', f"nearest: '{NAME}'"),  # mmdetection 2's
        ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1_coco', f"nearest: '{NAME}'"),
        ('mask_rcnn_r50_fpn_gn_1x', rf"no published weights are known; nearest: '{NAME}'.*Give the path"),
        ('nuclei/mask-rcnn_r18_fpn_cbn', rf"no published weights are known; nearest: .*'{DEMO}'"),
        ('faster-rcnn_r101-caffe_fpn_ms-3x_coco', 'no published weights are known'),
        (f'{NAME}.pth', f'no such file; by name these weights are {NAME!r}'),
        ('x/mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth', f'no such file; by name these weights are {NAME!r}'),
        ('epoch_9.pth', 'no such file$'),
        ('', 'no such file'),
    ],
)
def test_no_such_name(name, says):
    with pytest.raises(FileNotFoundError, match=f'checkpoint {re.escape(name)}: .*{says}'):
        check_checkpoint_file(name)


def test_a_file_wins_over_a_name_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(DEMO).mkdir()
    assert Path(check_checkpoint_file(DEMO)).parent == ROOT / 'demo/models'
    Path(DEMO).rmdir()
    torch.save(dict(state_dict=dict(w=torch.ones(1))), DEMO)
    assert check_checkpoint_file(DEMO) == DEMO
    assert CheckpointLoader.load_checkpoint(DEMO)['state_dict']['w'].tolist() == [1]


@pytest.mark.parametrize('name', [DEMO, f'nuclei/{DEMO}', f'mmdet::nuclei/{DEMO}', f'configs/nuclei/{DEMO}'])
def test_a_model_of_the_repository(name):
    assert find_weights(name) == str(ROOT / _demo_models()['nuclei']['weights'])


def test_a_model_of_the_repository_without_its_file_or_with_another(index, tmp_path):
    index({f'nuclei/{DEMO}': 'demo/models/x-00000000.pth'})
    with pytest.raises(
        FileNotFoundError, match=f'{DEMO}: {tmp_path}/demo/models/x-00000000.pth is not there.*reposito'
    ):
        find_weights(DEMO)
    (tmp_path / 'demo/models').mkdir(parents=True)
    (tmp_path / 'demo/models/x-00000000.pth').write_bytes(b'x')
    with pytest.raises(
        ValueError, match=r'x-00000000.pth is damaged \(its SHA-256 begins with 2d711642, not with 0000'
    ):
        find_weights(DEMO)


# -- downloads ----------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Puts another index in the place of the repository's, and makes torch's cache an empty folder."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(published, 'INDEX', tmp_path / 'model-index.yml')

    def write(weights):
        models = [dict(Name=name, Weights=place) for name, place in weights.items()]
        (tmp_path / 'model-index.yml').write_text(yaml.dump(dict(Import=['metafile.yml'])))
        (tmp_path / 'metafile.yml').write_text(yaml.dump(dict(Models=models)))
        published.published.cache_clear()

    yield write
    published.published.cache_clear()


@pytest.fixture
def server(index, tmp_path):
    """Serves ``content``, a checkpoint of mmdetection 2, under a name with its digest, which the index has as NAME."""
    torch.save(
        dict(meta=dict(CLASSES=('a', 'b'), mmdet_version='2.3.0', config='x = 1'), state_dict=dict(w=torch.ones(9))),
        tmp_path / 'x.pth',
        _use_new_zipfile_serialization=False,
    )
    content = (tmp_path / 'x.pth').read_bytes()
    state = SimpleNamespace(content=content, length=len(content), status=200, asked=0, go_on=threading.Event())
    state.go_on.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked += 1
            self.send_response(state.status)
            self.send_header('Content-Length', str(state.length))
            self.end_headers()
            self.wfile.write(state.content[:10])
            self.wfile.flush()
            state.go_on.wait(20)
            self.wfile.write(state.content[10:])

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    http.handle_error = lambda *_: None  # a reader that has gone
    thread = threading.Thread(target=http.serve_forever, kwargs=dict(poll_interval=0.01))
    thread.start()
    file = f'x_20200205-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    state.url = f'http://127.0.0.1:{http.server_port}/a%2Bb/{file}'
    state.path = tmp_path / 'torch/hub/checkpoints' / file
    index({f'mask_rcnn/{NAME}': state.url})
    yield state
    state.go_on.set()
    http.shutdown()
    http.server_close()
    thread.join()


def in_cache(server):
    return [path.name for path in server.path.parent.iterdir()]


def test_downloaded_once_and_read_on_every_way(server, capfd):
    assert find_weights(NAME) == str(server.path) and server.path.read_bytes() == server.content
    assert find_weights(f'mask_rcnn/{NAME}') == check_checkpoint_file(NAME) == str(server.path)
    assert load_checkpoint_file(NAME)['meta']['CLASSES'] == ('a', 'b')
    read = CheckpointLoader.load_checkpoint(NAME)  # load_from
    assert read['state_dict']['w'].sum() == 9 and 'config' not in read['meta']
    assert server.asked == 1 and in_cache(server) == [server.path.name]
    assert oct(server.path.stat().st_mode & 0o777) == oct(0o666 & ~_umask())


def _umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


@pytest.mark.parametrize(
    'change, says',
    [
        (dict(content=b'0' * 100, length=100), r'its SHA-256 begins with \w{8}, not with \w{8} as published'),
        (dict(length=10**6), '(its SHA-256 begins with|IncompleteRead|retrieval incomplete)'),
        (dict(status=404), 'HTTP Error 404'),
    ],
    ids=['other', 'cut off', '404'],
)
def test_nothing_is_kept_of_a_download_that_fails(server, change, says):
    vars(server).update(change)
    if change.get('length') == 10**6:  # the connection ends before
        server.content = server.content[:50]
    with pytest.raises(FileNotFoundError) as error:
        find_weights(NAME)
    assert re.search(
        f'checkpoint {NAME}: neither is {server.path} there, nor could {server.url} be downloaded \\(.*{says}.*'
        r'Put the file there, or give the path of another$',
        str(error.value),
    )
    assert in_cache(server) == []


def test_a_damaged_file_is_downloaded_again_and_kept_until_then(server):
    find_weights(NAME)
    for damaged in (server.content[:-1], server.content[:-1] + b'!', b''):
        server.path.write_bytes(damaged)
        server.status = 500
        with pytest.raises(FileNotFoundError, match=rf'{server.path} is damaged \(.* as published\), and .* could not'):
            find_weights(NAME)
        assert server.path.read_bytes() == damaged
        server.status = 200
        assert Path(find_weights(NAME)).read_bytes() == server.content


def test_a_server_that_does_not_answer(server, monkeypatch):
    monkeypatch.setattr(download, 'TIMEOUT', 0.2)
    server.go_on.clear()
    with pytest.raises(FileNotFoundError, match='timed out'):
        find_weights(NAME)
    assert in_cache(server) == []


def test_no_network_and_a_cache_that_cannot_be_written(index, tmp_path):
    index({f'mask_rcnn/{NAME}': 'http://127.0.0.1:9/x-00000000.pth'})
    with pytest.raises(FileNotFoundError, match='x-00000000.pth there, nor could .*Connection refused.*Put the file'):
        find_weights(NAME)
    (tmp_path / 'torch/hub/checkpoints').rmdir()
    (tmp_path / 'torch/hub/checkpoints').write_text('')
    with pytest.raises(FileNotFoundError, match='could .*be downloaded .*File exists'):
        find_weights(NAME)


def test_processes_at_once_download_once(server):
    server.go_on.clear()
    children = [fork(find_weights, NAME) for _ in range(3)]
    while not server.asked:
        time.sleep(0.01)
    time.sleep(0.3)  # the others are waiting by then, or have asked as well
    server.go_on.set()
    for child in children:
        child.join(20)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert server.asked == 1 and in_cache(server) == [server.path.name]
    assert server.path.read_bytes() == server.content


def test_a_killed_download_leaves_no_file_and_the_next_process_goes_on(server):
    server.go_on.clear()
    first = fork(find_weights, NAME)
    while not server.asked:
        time.sleep(0.01)
    second = fork(find_weights, NAME)
    time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.join(20)
    assert not server.path.exists() and in_cache(server)
    server.go_on.set()
    second.join(20)
    assert second.exitcode == 0 and server.asked == 2 and in_cache(server) == [server.path.name]
    assert Path(find_weights(NAME)).read_bytes() == server.content and server.asked == 2


def test_an_interrupted_download_leaves_nothing(server, monkeypatch):
    def interrupt(url, path, **_):
        Path(f'{path}.partial').write_bytes(b'1')
        os.unlink(f'{path}.partial')
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.hub, 'download_url_to_file', interrupt)
    with pytest.raises(KeyboardInterrupt):
        find_weights(NAME)
    assert in_cache(server) == []


# -- who takes names ----------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(server, tiny_config, tmp_path):
    """The tiny model's weights are what is published, as mmdetection 2 writes them."""
    state_dict = init_detector(str(tiny_config)).state_dict()
    classes = ('circle', 'square', 'triangle')
    torch.save(
        dict(meta=dict(CLASSES=classes, config='x = 1'), state_dict=state_dict),
        tmp_path / 'tiny.pth',
        _use_new_zipfile_serialization=False,
    )
    server.content = (tmp_path / 'tiny.pth').read_bytes()
    server.length = len(server.content)
    file = f'tiny-{hashlib.sha256(server.content).hexdigest()[:8]}.pth'
    published.published().update({f'mask_rcnn/{NAME}': f'{os.path.dirname(server.url)}/{file}'})
    return state_dict


def test_init_detector_and_the_test_command(tiny, tiny_config, tmp_path, capsys):
    model = init_detector(str(tiny_config), NAME)
    assert all(torch.equal(value, tiny[key]) for key, value in model.state_dict().items())
    assert model.dataset_meta['classes'] == ('circle', 'square', 'triangle')
    test_command.main([str(tiny_config), NAME, '--work-dir', str(tmp_path / 'work')])
    assert 'triangle' in capsys.readouterr().out


class Stop(Exception):
    pass


@pytest.fixture
def start(tiny, tiny_config, tmp_path, monkeypatch):
    """What ``mmdet train`` with some words begins to run."""

    def begin(*words):
        with pytest.raises(Stop) as stop:
            train.main([str(tiny_config), '--work-dir', str(tmp_path / 'work'), *words])
        return stop.value.args[0]

    def stop(cfg):
        raise Stop(cfg)

    monkeypatch.setattr(training.DetRunner, 'from_cfg', stop)
    return begin


def test_train_starts_from_weights(start, server, tmp_path, capsys):
    cfg = start('--weights', NAME, '--cfg-options', 'resume=True', 'load_from=gone.pth')
    assert cfg.load_from == NAME and cfg.resume is False and server.asked == 1
    assert start('--cfg-options', f'load_from={NAME}').load_from == NAME
    assert start(f'--weights={tmp_path}/tiny.pth').load_from == f'{tmp_path}/tiny.pth'
    for words, error, says in (
        (['--weights', 'mask-rcnn_r50_fpn_1x'], FileNotFoundError, f'nearest: {NAME!r}'),
        (['--weights='], FileNotFoundError, 'checkpoint : no such file'),
        (['--resume', NAME], ValueError, f'--resume {NAME}: these are weights.*--weights {NAME}'),
        (['--cfg-options', 'resume=True', f'load_from={NAME}'], ValueError, 'resume=False'),
        (['--cfg-options', 'load_from=3'], TypeError, 'load_from must be the path .*got int 3'),
        (['--resume', NAME, '--weights', NAME], SystemExit, '2'),
    ):
        with pytest.raises(error, match=says):
            start(*words)
    assert 'argument --weights: not allowed with argument --resume' in capsys.readouterr().err


def test_place_of_weights():
    assert place_of(NAME).endswith('-d4b0c5d6.pth') and place_of('mask_rcnn_r50_fpn_gn_1x') == '' and not place_of('x')
