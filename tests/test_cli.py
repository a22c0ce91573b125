"""The command mmdet: its table, help, and errors."""

import signal
import subprocess
import sys
from importlib import import_module

import pytest
from conftest import ROOT

from mmdet.cli.main import COMMANDS, main, usage
from mmdet.comparison.trainings import reason_of


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_has_a_page_of_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        import_module(COMMANDS[command][0]).main(['--help'])
    assert stop.value.code == 0
    assert f'mmdet {command}' in ' '.join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    'words, code, out, err',
    [
        ([], 2, 'mmdet train', ''),
        (['--help'], 0, 'mmdet analyze flops', ''),
        (['analyze', '--help'], 0, 'mmdet analyze flops', ''),
        (['analyze'], 0, 'mmdet analyze flops', ''),
        (['--version'], 0, 'mmdet 0.', ''),
        (['trian'], 2, '', "no command 'trian'; nearest: 'train'"),
        (['analyze', 'flop'], 2, '', "no command 'analyze flop'; nearest: 'analyze flops'"),
        (['train', 'shapes/mask-rcnn_r18_fpn_cbn', '--max-restarts', '2'], 1, '', '--max-restarts 2: needs --gpus'),
        (['config', 'gone.py'], 1, '', 'error: FileNotFoundError: config gone.py: no such file'),
        (['config', 'configs/shapes/mask-rcnn_r18_fpn_cbnn.py'], 1, '', "nearest: 'mask-rcnn_r18_fpn_cbn'"),
    ],
)
def test_words(words, code, out, err, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mmdet', *words])
    assert main() == code
    said = capsys.readouterr()
    assert out in said.out and err in said.err and 'Traceback' not in said.err
    assert not (err and said.out)


def test_usage_needs_no_torch():
    code = 'import sys; from mmdet.cli.main import usage; usage(); sys.exit("torch" in sys.modules)'
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
    assert len(usage('convert').splitlines()) == 7


def test_a_reader_that_has_had_enough():
    done = subprocess.run(
        f'{sys.executable} -m mmdet config shapes/mask-rcnn_r18_fpn_cbn | head -n 1',
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout and not done.stderr


def test_debug_shows_the_traceback_of_what_was_foreseen_too():
    # that there is none without is in test_train_and_test.py
    done = subprocess.run(
        [sys.executable, '-m', 'mmdet', 'config', 'gone.py', '--debug'], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and 'Traceback' in done.stderr
    assert done.stderr.splitlines()[-1] == 'error: FileNotFoundError: config gone.py: no such file'


def test_of_what_nobody_has_foreseen_the_traceback_is_shown():
    code = 'from mmdet.run.ending import run_main; raise SystemExit(run_main(lambda: 1 / 0))'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and 'Traceback' in done.stderr
    assert done.stderr.splitlines()[-1] == 'error: ZeroDivisionError: division by zero'


def test_a_process_that_dies_says_where():
    code = (
        'import os, signal; from mmdet.run.ending import run_main\n'
        'def kernel(): os.kill(os.getpid(), signal.SIGSEGV)\n'
        'run_main(kernel)'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGSEGV
    assert reason_of(done.stderr, done.returncode) == 'ended by SIGSEGV in File "<string>", line 2 in kernel'


@pytest.mark.parametrize(
    'words, heavy',
    [
        (['-c', 'import mmdet'], ['mmengine', 'torch', 'numpy', 'json']),
        (['-m', 'mmdet', 'train', '--help'], ['torch', 'cv2']),
        (['-m', 'mmdet', 'test', '--help'], ['torch', 'cv2']),
    ],
)
def test_the_first_words_do_not_wait_for_torch(words, heavy):
    """Which takes a second or more to import."""
    run = subprocess.run([sys.executable, '-X', 'importtime', *words], capture_output=True, text=True)
    imported = {line.rpartition('|')[2].strip() for line in run.stderr.splitlines()}
    assert run.returncode == 0 and 'mmdet' in imported
    assert not imported & set(heavy)
