"""A place where the documents' scripts and commands run."""

import re
import shutil

import pytest
import torch
from documents import BLOCKS, ROOT, config_path, is_config
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet.registry import MODELS

# Names of a document's script that a reader has, and the test gives.
FILES = ('image.jpg', 'checkpoint.pth', 'epoch_12.pth')


@pytest.fixture
def no_random_weights(monkeypatch):
    """Models are built without filling their tensors."""
    for name in ('kaiming_uniform_', 'kaiming_normal_', 'uniform_', 'normal_'):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


@pytest.fixture(scope='session')
def weights(tiny_config, tmp_path_factory):
    """A checkpoint of the tiny config, as a run writes it, with random weights."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(tiny_config)
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save(
        dict(
            state_dict=MODELS.build(cfg.model).state_dict(),
            meta=dict(cfg=cfg.pretty_text, dataset_meta=dict(cfg.train_dataloader.dataset.metainfo)),
        ),
        path,
    )
    return path


@pytest.fixture(scope='session')
def configs(tmp_path_factory):
    """A copy of the configs, and in it those that the documents show."""
    folder = tmp_path_factory.mktemp('copy') / 'configs'
    shutil.copytree(ROOT / 'configs', folder)
    for block in BLOCKS:  # modules of a user's own
        name = re.match(r'# (\w+\.py)\n', block.text) if block.language == 'python' else None
        if name:
            (folder.parent / name.group(1)).write_text(block.text)
    for block in filter(is_config, BLOCKS):
        path = folder.parent / config_path(block)
        assert not path.exists(), f'{block.place}: {config_path(block)} is there already, or shown twice'
        path.parent.mkdir(exist_ok=True)
        path.write_text(block.text.replace('/path/to/mmdetection', str(ROOT)))
    return folder


@pytest.fixture
def place(configs, tmp_path, monkeypatch, tiny_config, tiny_shapes, weights):
    """A folder like the repository's root, with those configs and a reader's files."""
    for name in ('mmdet', 'tools', 'tests', 'docs', 'demo', 'constraints.txt'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'configs').symlink_to(configs)
    images = sorted((tiny_shapes / 'val').iterdir())
    for name in FILES:
        (tmp_path / name).symlink_to(images[0] if name.endswith('.jpg') else weights)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'a.png').symlink_to(images[1])
    (tmp_path / 'tiny.py').symlink_to(tiny_config)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(configs.parent)
    init_default_scope('mmdet')
    return tmp_path
