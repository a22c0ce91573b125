"""What a command does to the process, and what importing does not."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from yapf.yapflib import yapf_api

from mmdet.run.prepare import setup

CODE = """
import importlib, os, pkgutil, sys
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

def detector():
    try:
        mmdet.apis.init_detector('no_such_config')
    except KeyError:
        pass

for setup in (
    mmdet.run.prepare.setup,
    mmdet.utils.register_all_modules,
    detector,
    lambda: mmdet.run.ending.run_main(lambda: None),
):
    if os.fork() == 0:
        setup()
        os._exit(origins() != {'mmdet'})
    _, status = os.wait()
    assert status == 0, setup
assert origins() == {'mmengine'}, origins()
"""


def test_importing_replaces_nothing_in_mmengine_and_setup_does():
    done = subprocess.run([sys.executable, '-c', CODE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_text_is_formatted_once(monkeypatch):
    texts = []
    monkeypatch.setattr(yapf_api, 'FormatCode', lambda text, style_config: (texts.append(text) or text.strip(), True))
    for _ in range(2):
        setup()
    for text in ('a ', 'a ', 'b '):
        assert yapf_api.FormatCode(text, style_config=dict(a=1)) == (text.strip(), True)
    assert texts == ['a ', 'b ']


@pytest.mark.skipif(sys.platform != 'linux', reason='the C library of Linux')
@pytest.mark.parametrize('own', [{}, dict(MALLOC_ARENA_MAX='8')])
def test_freed_memory_is_kept_unless_the_user_says_how(own):
    """A page that the system gives anew is a fault."""
    code = (
        'import resource, numpy as np; from mmdet.run.prepare import keep_memory; keep_memory()\n'
        'def faults():\n'
        '    for _ in range(20): several = [np.ones(2 << 20, dtype=np.uint8) for _ in range(9)]; del several\n'
        '    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n'
        'print(-faults() + faults())'
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith(('MALLOC_', 'GLIBC_'))}
    run = subprocess.run([sys.executable, '-c', code], env={**env, **own}, capture_output=True, text=True, check=True)
    assert (int(run.stdout.split()[-1]) < 10_000) == (not own), run.stdout
