"""The comparison in Weights & Biases and MLflow; their packages are stand-ins that write down what they are told."""

import importlib
import json
import sys

import pytest
from conftest import load_tool

from mmdet.comparison.results import Results, to_text
from mmdet.comparison.tracking import norms_table, trainings_table
from mmdet.config import load_config

BACKENDS = 'visualizer.vis_backends=[WandbVisBackend,MLflowVisBackend]'
APS = {('BN', 1): [0.1, 0.11], ('GN', 1): [0.5, 0.52], ('BN', 2): [0.3]}
CELLS = {
    f'{norm}_b{batch}_s{seed}': dict(
        norm=norm,
        norm_cfg=dict(type='BN'),
        batch_size=batch,
        seed=seed,
        metrics={'coco/bbox_mAP': ap, 'coco/bbox_mAP_50': ap, 'coco/bbox_mAP_l': -1.0},
        curve=[{'step': 2, 'coco/bbox_mAP': ap}],
        losses=[[10, 2.0]],
        config='train_cfg = dict(max_epochs=2)\n',
        cell_config="_base_ = 'x.py'\n",
        command='mmdet train x.py',
        images_per_second=4.0,
        detections={},
    )
    for (norm, batch), aps in APS.items()
    for seed, ap in enumerate(aps)
}
DATA = dict(kind='mmdet norm comparison', cells=CELLS, failed={})
WANDB = """
from contextlib import contextmanager
from types import SimpleNamespace
calls, broken = [], []
def Table(columns, data):
    assert all(len(row) == len(columns) for row in data)
    return columns, data
Html = lambda path: open(path).read()
@contextmanager
def init(**words):
    calls.append(words)
    def log(values):
        if broken:
            raise OSError('no network')
        calls.append(values)
    yield SimpleNamespace(id=words['id'] or 'new', log=log)
"""
MLFLOW = """
import json
from contextlib import contextmanager
from types import SimpleNamespace
files, tags, words = {}, {}, {}
set_tracking_uri = lambda uri: words.update(uri=uri)
get_experiment_by_name = lambda name: None if 'experiment' not in words else name
create_experiment = lambda name, artifact_location: words.update(experiment=name, location=artifact_location)
set_experiment = lambda name: words.update(set=name)
@contextmanager
def start_run(run_id, run_name):
    words.setdefault('runs', []).append((run_id, run_name))
    yield SimpleNamespace(info=SimpleNamespace(run_id=run_id or 'first'))
set_tag = tags.__setitem__
log_dict = lambda value, name: files.update({name: json.loads(json.dumps(value))})
log_artifact = lambda path: files.update({path.rpartition('/')[2]: open(path).read()})
"""


@pytest.fixture
def trackers(tmp_path, monkeypatch):
    """The stand-ins."""
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    for name, text in dict(wandb=WANDB, mlflow=MLFLOW).items():
        (tmp_path / f'{name}.py').write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module('wandb'), importlib.import_module('mlflow')
    for name in ('wandb', 'mlflow'):
        del sys.modules[name]


@pytest.fixture
def compare(tiny_config, tmp_path):
    """Calls the tool on a folder of finished trainings."""
    folder = tmp_path / 'all' / 'norms'
    folder.mkdir(parents=True)
    (folder / 'results.json').write_text(to_text(DATA))

    def call(*options):
        load_tool('tools/compare_norms.py').main([str(tiny_config), '--work-dir', str(folder), *options])

    call.folder = folder
    return call


def test_tables():
    columns, rows = trainings_table(DATA)
    assert len(rows) == 5 and rows[1][:5] == ['BN_b1_s1', 'BN', 1, 1, None]
    assert rows[1][columns.index('coco/bbox_mAP')] == 0.11 and 'coco/bbox_mAP_l' not in columns
    columns, rows = norms_table(DATA)
    found = {tuple(row[:2]): dict(zip(columns, row)) for row in rows}
    assert list(found) == [('BN', 1), ('GN', 1), ('BN', 2)]
    bn, gn, alone = found.values()
    assert bn['seeds'] == 2 and bn['box AP, %'] == pytest.approx(10.5)
    assert bn['box AP, sd'] == pytest.approx(0.5**0.5) and not bn['box AP, best'] and gn['box AP50, best']
    assert alone['box AP, %'] == pytest.approx(30) and alone['box AP, sd'] is None and not alone['box AP, best']
    one = dict(seconds=0.25, ratio=1.2, peak_mib=None, window_mib=3.0)
    columns, rows = norms_table(dict(DATA, speed=dict(reference='BN', batch_sizes={'1': dict(GN=one)})))
    assert columns[-4:] == ['step, ms', 'step / BN', 'peak memory, MiB', 'window, MiB']
    assert [row[-4:] for row in rows] == [[None] * 4, [250, 1.2, None, 3], [None] * 4]
    assert norms_table(dict(cells={}, failed={}))[1] == trainings_table(dict(cells={}, failed={}))[1] == []


def test_of_what_is_finished(compare, trackers, tmp_path):
    wandb, mlflow = trackers
    compare('--report-only', '--cfg-options', BACKENDS)
    started, logged = wandb.calls
    assert (started['group'], started['name'], started['id'], started['resume']) == ('norms', 'norms', None, 'allow')
    assert logged['norms'] == norms_table(DATA) and logged['trainings'] == trainings_table(DATA)
    assert logged['page'] == mlflow.files['index.html'] == (compare.folder / 'index.html').read_text()
    assert mlflow.words == dict(
        uri=f'sqlite:///{tmp_path}/all/mlflow.db',
        experiment='mmdet',
        location=(tmp_path / 'all' / 'mlruns').as_uri(),
        set='mmdet',
        runs=[(None, 'norms')],
    )
    for name, table in dict(norms=norms_table(DATA), trainings=trainings_table(DATA)).items():
        assert mlflow.files[f'{name}.json'] == dict(zip(['columns', 'data'], table))
        assert dict(path=f'{name}.json', type='table') in json.loads(mlflow.tags['mlflow.loggedArtifacts'])
    assert '| GN | **51.0 ± 1.4** |' in mlflow.tags['mlflow.note.content']
    # a second time: the same runs
    compare('--report-only', '--cfg-options', BACKENDS)
    assert wandb.calls[2]['id'] == 'new' and mlflow.words['runs'][1][0] == 'first'
    results = Results(compare.folder / 'results.json').data
    assert results['runs'] == dict(wandb='new', mlflow='first') and results['cells'] == DATA['cells']


def test_without_network(compare, trackers, tmp_path, capsys):
    """It ends nothing, and a second try goes on with the run that was begun; the trainings have runs beside it."""
    wandb, mlflow = trackers
    wandb.broken.append(True)
    grid = ['--norms', 'BN', '--batch-sizes', '1', '--seeds', '7', '--speed-only', '--speed-seconds', '0.1']
    compare(*grid, '--cfg-options', BACKENDS)
    cell = load_config(str(compare.folder / 'cells' / 'BN_b1_s7' / 'config.py'))
    _, one, other = cell.visualizer.vis_backends
    assert one == dict(type='WandbVisBackend', init_kwargs=dict(group='norms', name='BN_b1_s7'))
    assert other.run_name == 'norms BN_b1_s7' and other.tracking_uri == f'sqlite:///{tmp_path}/all/mlflow.db'
    assert 'have no table, or not all of it: OSError: no network; --report-only' in capsys.readouterr().out
    with pytest.raises(OSError, match='no network'):
        compare('--report-only', '--cfg-options', BACKENDS)
    wandb.broken.clear()
    compare('--report-only', '--cfg-options', BACKENDS)
    assert [call['id'] for call in wandb.calls if 'id' in call] == [None, 'new', 'new']
    assert 'norms' in wandb.calls[-1] and 'norms.json' in mlflow.files
    assert 'step / BN' in wandb.calls[-1]['norms'][0]


def test_missing_package(compare, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    for words in (['--report-only'], ['--resume']):
        with pytest.raises(ImportError, match=r"WandbVisBackend: the package 'wandb' is not installed \(pip install w"):
            compare(*words, '--cfg-options', 'visualizer.vis_backends=WandbVisBackend')
