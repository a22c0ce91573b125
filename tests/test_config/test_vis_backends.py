"""Where the curves go is one option."""

import sys

import pytest
from mmengine.visualization import WandbVisBackend

from mmdet.config import load_config


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    path = tmp_path / 'c.py'
    path.write_text("visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='TensorboardVisBackend')])")

    def load(backends):
        cfg = load_config(str(path), {'visualizer.vis_backends': backends}, str(tmp_path / 'work dir'))
        return cfg.visualizer.vis_backends

    return load


def test_names(load):
    local, tensorboard, wandb = (dict(type=f'{name}VisBackend') for name in ('Local', 'Tensorboard', 'Wandb'))
    assert load('WandbVisBackend') == [local, wandb]
    assert load(['WandbVisBackend', 'LocalVisBackend', 'TensorboardVisBackend']) == [local, wandb, tensorboard]
    assert load(['WandbVisBackend', dict(tensorboard, save_dir='x')]) == [local, wandb, dict(tensorboard, save_dir='x')]
    assert load([wandb]) == [wandb]  # a config's own list is taken as it is


def test_mlflow_s_place(load, tmp_path, monkeypatch):
    mlflow = load('MLflowVisBackend')[1]
    assert mlflow == dict(
        type='MLflowVisBackend',
        tracking_uri=f'sqlite:///{tmp_path}/mlflow.db',
        exp_name='mmdet',
        run_name='work dir',
        artifact_location=(tmp_path / 'mlruns').as_uri(),
    )
    own = dict(type='MLflowVisBackend', tracking_uri='http://host:5000')
    assert load([own]) == [own]
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://host:5000')
    assert load('MLflowVisBackend')[1] == dict(own, exp_name='mmdet', run_name='work dir')


def test_a_package_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ImportError, match='pip install wandb'):
        WandbVisBackend(save_dir=str(tmp_path)).experiment
