"""The wheel: what is in it, and a training from it in an environment without the clone."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
import yaml
from conftest import ROOT

from mmdet.config import config_names

SHORT = [
    'train_cfg.max_epochs=1',
    *(f'{part}_dataloader.{key}' for part in ('train', 'val') for key in ('num_workers=0', 'persistent_workers=False')),
]


def run(*words, **kwargs):
    done = subprocess.run(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, **kwargs
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    # a copy: setuptools leaves build/ and an egg-info behind
    run('git', 'clone', '-q', ROOT, folder / 'clone')
    run(sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', folder, folder / 'clone')
    return next(folder.glob('*.whl'))


def test_what_is_in_it(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = run('git', 'ls-files', 'mmdet', 'configs', cwd=ROOT).split()
    wanted = {path for path in tracked if path.startswith('mmdet/') and '/.mim/' not in path}
    wanted |= {f'mmdet/.mim/{path}' for path in tracked if path.startswith('configs/') and not path.endswith('.md')}
    assert not wanted - names and 'mmdet/.mim/model-index.yml' in names
    assert not any(name.startswith(('tests/', 'tools/', 'docs/')) for name in names)
    assert any(name.endswith('licenses/LICENSE') for name in names)


def test_training_without_the_clone(wheel, tmp_path):
    venv.create(tmp_path / 'env', symlinks=True)
    bin_dir = tmp_path / 'env' / 'bin'
    site = next((tmp_path / 'env' / 'lib').glob('python*/site-packages'))
    run(sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', site, wheel)
    # the other packages, but for the editable install, whose .pth is not read from there
    shim = 'import importlib.util as u; u.find_spec("_distutils_hack") and __import__("_distutils_hack").add_shim()'
    (site / 'others.pth').write_text(f'{sysconfig.get_paths()["purelib"]}\n{shim}\n')  # mmengine wants distutils
    command = [bin_dir / 'python', '-m', 'mmdet']
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    env['OMP_NUM_THREADS'] = '1'
    told = run(bin_dir / 'python', '-c', 'import mmdet; print(mmdet.__file__)', cwd=tmp_path, env=env)
    assert told.startswith(str(site))
    run(*command, 'data', 'shapes', *'--out data/shapes --train 4 --val 2 --size 64'.split(), cwd=tmp_path, env=env)
    (tmp_path / 'own.py').write_text("_base_ = 'mmdet::shapes/mask-rcnn_r18_fpn_cbn.py'\n")
    for config in ('shapes/mask-rcnn_r18_fpn_cbn', 'own.py'):
        run(*command, 'train', config, '--work-dir', 'out', '--cfg-options', *SHORT, cwd=tmp_path, env=env)
    table = run(*command, 'test', 'configs/shapes/mask-rcnn_r18_fpn_cbn.py', 'out/epoch_1.pth', cwd=tmp_path, env=env)
    assert 'triangle' in table
    assert 'train' in run(*command, '--help', cwd=tmp_path, env=env)


def test_every_config_is_in_the_index():
    listed = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text())['Models']
    paths = {ROOT / model['Config'] for model in listed}
    known = {path for paths in config_names().values() for path in paths}
    assert paths == known and len(paths) == len(listed)
