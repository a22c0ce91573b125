"""What a command does to the process, and what importing does not."""

import subprocess
import sys

import pytest
from conftest import ROOT

CODE = """
import pkgutil, importlib
import mmdet
for module in pkgutil.walk_packages(mmdet.__path__, 'mmdet.'):
    if not module.name.endswith('__main__'):
        importlib.import_module(module.name)
from mmengine.fileio import get_file_backend
from mmengine.runner.checkpoint import CheckpointLoader

def origins():
    loaders = CheckpointLoader._schemes.values()
    return {kind.__module__.partition('.')[0] for kind in (*loaders, type(get_file_backend('x')))}

assert origins() == {'mmengine'}, origins()
"""
SETUPS = {
    'setup': 'from mmdet.run.prepare import setup; setup()',
    'register_all_modules': 'from mmdet.utils import register_all_modules; register_all_modules()',
    'init_detector': (
        'from mmdet.apis import init_detector\\ntry: init_detector("no_such_config")\\nexcept KeyError: pass\\n'
    ),
    'command': 'from mmdet.run.ending import run_main; run_main(lambda: None)',
}


@pytest.mark.parametrize('how', SETUPS)
def test_importing_replaces_nothing_in_mmengine_and_setup_does(how):
    code = CODE + SETUPS[how].replace('\\n', '\n') + "\nassert origins() == {'mmdet'}, origins()\n"
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
