"""mmdet compare: what is run, kept, and run again. The trainings are a script that writes what they would."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import ROOT, load_tool

from mmdet.comparison import trainings
from mmdet.comparison.grid import Cell
from mmdet.comparison.results import Results
from mmdet.comparison.runner import Grid
from mmdet.run.ending import run_main

TOOL = 'tools/compare_norms.py'
AP = {'BN_b2_s0': 0.1, 'GN_b2_s0': 0.3, 'BN_b2_s1': 0.2, 'GN_b2_s1': 0.5}
TRAINING = """
import json, os, re, sys, time
from pathlib import Path
config, run = Path(sys.argv[1]), Path(sys.argv[3])
name = config.parent.name
print('threads', os.environ['OMP_NUM_THREADS'], *sys.argv[4:], flush=True)
state = run / 'epoch_1.pth'
if 'BAD' in os.environ and re.fullmatch(os.environ['BAD'], name):
    print('error: RuntimeError: no luck')
    print('and more')
    sys.exit(1)
folder = run / 'time' / 'vis_data'
folder.mkdir(parents=True, exist_ok=True)
if 'SLOW' in os.environ:
    (run / 'started').touch()
    time.sleep(60)
cut = 'CUT' in os.environ and not (config.parent / 'cut').exists()
(config.parent / 'cut').touch()
ap = json.loads(os.environ['APS'])[name]
records = [{'loss': 3. / i, 'iter': i, 'step': i, 'epoch': 1, 'time': .5} for i in range(1, 7)]
records += [{'step': 1 if cut else 2, 'coco/bbox_mAP': ap}]
(folder / 'scalars.json').write_text(''.join(json.dumps(record) + '\\n' for record in records))
(run / 'epoch_2.pth').write_bytes(b'weights')
"""


@pytest.fixture
def tool(tiny_config, tmp_path, monkeypatch):
    """Calls the tool with two norms, one batch size and two seeds."""
    script = tmp_path / 'training.py'
    script.write_text(TRAINING)
    command = Grid.command
    monkeypatch.setattr(Grid, 'command', lambda self, cell: ['training', *command(self, cell)[2:]])
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    monkeypatch.setattr(trainings, 'find_checkpoint', lambda folder: None)
    monkeypatch.setenv('APS', json.dumps(AP))
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    module = load_tool(TOOL)

    def call(*options, config=tiny_config, norms=('BN', 'GN=dict(type="GN",num_groups=8)')):
        module.main(
            [
                str(config),
                '--norms',
                *norms,
                '--batch-sizes',
                '2',
                '--seeds',
                '0',
                '1',
                '--work-dir',
                str(tmp_path / 'out'),
                '--speed-seconds',
                '0',
                *options,
            ]
        )

    call.out = tmp_path / 'out'
    call.module = module
    return call


def read(tool):
    return Results(tool.out / 'results.json').data


def test_grid(tool, capsys):
    tool('--jobs', '2', '--remove-checkpoints')
    data = read(tool)
    assert {name: cell['metrics'] for name, cell in data['cells'].items()} == {
        name: {'coco/bbox_mAP': ap} for name, ap in AP.items()
    }
    cell = data['cells']['GN_b2_s1']
    assert cell['losses'][1] == [2, 1.5] and cell['iteration_seconds'] == 0.5 and cell['images_per_second'] == 4
    assert cell['norm_cfg'] == dict(type='GN', num_groups=8) and cell['unit'] == 'epoch'
    assert "'GN'" in cell['cell_config'] and 'CBN' not in cell['cell_config'] and 'seed=1' in cell['config']
    assert not list(tool.out.glob('cells/*/run/*.pth'))
    table = (tool.out / 'table.md').read_text()
    assert '| BN | 15.0 ± 7.1 |' in table and '| GN | 40.0 ± 14.1 |' in table
    assert 'threads 1' in (tool.out / 'cells' / 'BN_b2_s0' / 'output.txt').read_text() or os.cpu_count() > 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('4 trainings, 0 of them finished') and len(lines) == 5
    # again: refused, then with nothing to do
    with pytest.raises(ValueError, match='--resume'):
        tool()
    before = {path: path.stat().st_mtime_ns for path in tool.out.glob('cells/*/output.txt')}
    tool('--resume')
    assert before == {path: path.stat().st_mtime_ns for path in tool.out.glob('cells/*/output.txt')}
    with pytest.raises(ValueError, match='optim_wrapper.optimizer.lr: .*another --work-dir'):
        tool('--resume', '--cfg-options', 'optim_wrapper.optimizer.lr=7')
    (tool.out / 'index.html').unlink()
    tool('--report-only')
    assert '15.0 <small>± 7.1' in (tool.out / 'index.html').read_text()


def test_failed_trainings(tool, monkeypatch, capsys):
    monkeypatch.setenv('BAD', 'GN_b2_s.')
    with pytest.raises(RuntimeError, match='2 of 4 trainings failed: GN_b2_s0, GN_b2_s1. --resume'):
        tool()
    data = read(tool)
    assert list(data['cells']) == ['BN_b2_s0', 'BN_b2_s1']
    assert data['failed'] == dict.fromkeys(['GN_b2_s0', 'GN_b2_s1'], 'RuntimeError: no luck')
    assert 'no luck' in (tool.out / 'index.html').read_text() and 'output.txt' in capsys.readouterr().out
    monkeypatch.delenv('BAD')
    tool('--resume')
    data = read(tool)
    assert len(data['cells']) == 4 and data['failed'] == {}


RATES = {
    'BN_b2_s0_lr0.01': 0.3,
    'BN_b2_s0_lr0.02': 0.2,
    'BN_b2_s0_lr0.04': 0.4,
    'GN_b2_s0_lr0.01': 0.1,
    'GN_b2_s0_lr0.02': 0.5,
    'GN_b2_s0_lr0.04': 0.3,
    'BN_b2_s1_lr0.01': 0.3,
    'BN_b2_s1_lr0.04': 0.3,
    'GN_b2_s1_lr0.02': 0.6,
}


@pytest.mark.slow
def test_learning_rates(tool, monkeypatch):
    monkeypatch.setenv('APS', json.dumps(RATES))
    monkeypatch.setenv('BAD', 'BN_b2_s0_lr0.04|GN_b2_s0.*')
    options = ['--jobs', '2', '--learning-rates', '0.01', '0.02', '0.04']
    with pytest.raises(RuntimeError, match='4 of 7 trainings failed: GN_b2_s0_lr0.01, GN.*, BN_b2_s0_lr0.04, GN'):
        tool(*options)
    data = read(tool)
    assert set(data['cells']) == {'BN_b2_s0_lr0.01', 'BN_b2_s0_lr0.02', 'BN_b2_s1_lr0.01'}
    assert data['cells']['BN_b2_s1_lr0.01']['lr'] == 0.01 and 'lr=0.01' in data['cells']['BN_b2_s1_lr0.01']['config']
    assert not list(tool.out.glob('cells/GN_b2_s1*'))
    # what failed is tried again, and BN's best rate is another one then
    monkeypatch.delenv('BAD')
    tool(*options, '--resume')
    assert {name: cell['metrics']['coco/bbox_mAP'] for name, cell in read(tool)['cells'].items()} == RATES
    assert '| BN | 35.0 ± 7.1 (lr 0.04) |' in (tool.out / 'table.md').read_text()
    before = {path: path.stat().st_mtime_ns for path in tool.out.glob('cells/*/output.txt')}
    tool(*options, '--resume')
    assert before == {path: path.stat().st_mtime_ns for path in tool.out.glob('cells/*/output.txt')}
    with pytest.raises(ValueError, match='BN_b2_s1_lr0.01 was trained with another config'):
        tool('--learning-rates', '0.01', '--seeds', '2', '1', '--resume', '--cfg-options', 'train_cfg.max_epochs=1')


def test_results_of_a_version_without_learning_rates(tool):
    tool()
    data = read(tool)
    assert {cell.pop('lr') for cell in data['cells'].values()} == {None}
    data['grid'].pop('learning_rates')
    (tool.out / 'results.json').write_text(json.dumps(data))
    before = {path: path.stat().st_mtime_ns for path in tool.out.glob('cells/*/output.txt')}
    tool('--resume')
    assert before == {path: path.stat().st_mtime_ns for path in tool.out.glob('cells/*/output.txt')}
    assert read(tool)['cells'] == data['cells']
    assert '| BN | 15.0 ± 7.1 |' in (tool.out / 'table.md').read_text()


def test_killed_in_its_last_evaluation(tool, monkeypatch, capsys):
    monkeypatch.setenv('CUT', 'yes')
    tool('--seeds', '1')
    assert {name: cell['metrics']['coco/bbox_mAP'] for name, cell in read(tool)['cells'].items()} == {
        'BN_b2_s1': 0.2,
        'GN_b2_s1': 0.5,
    }
    assert capsys.readouterr().out.count('holds no evaluation of epoch 2; trained again') == 2


def test_interrupted(tool, monkeypatch, capsys):
    monkeypatch.setenv('SLOW', 'yes')

    def stop():
        while len(list(tool.out.glob('cells/*/run/started'))) < 2:
            time.sleep(0.05)
        with pytest.raises(RuntimeError, match='another mmdet compare works here'):
            tool('--resume')
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    begin = time.time()
    thread.start()
    codes = [run_main(lambda: tool('--jobs', '2'))]
    thread.join()
    assert codes == [130] and time.time() - begin < 40
    error = capsys.readouterr().err
    assert 'to go on:\nmmdet compare' in error and '--resume' in error
    assert read(tool)['cells'] == {} and read(tool)['failed'] == {}
    monkeypatch.delenv('SLOW')
    tool('--resume')
    assert len(read(tool)['cells']) == 4


def test_gpus_are_shared_out(monkeypatch):
    found = trainings.Trainings(jobs=3, processes=2)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert [found.environment(slot)['CUDA_VISIBLE_DEVICES'] for slot in range(3)] == ['0,1', '2,3', '0,1']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '7,5,6,GPU-a')
    assert [found.environment(slot)['CUDA_VISIBLE_DEVICES'] for slot in range(2)] == ['7,5', '6,GPU-a']


def test_processes_start_through_torchrun(tmp_path):
    grid = Grid.__new__(Grid)
    grid.settings, _ = load_tool(TOOL).parse_args(['x.py', '--processes', '2', '--work-dir', 'out'])
    folder = 'out/cells/BN_b1_s0'
    command = f'mmdet train {folder}/config.py --work-dir {folder}/run --gpus 2'
    assert shlex.join(grid.command(Cell('BN', 1, 0))) == command


@pytest.mark.parametrize(
    'options, words',
    [
        (['--seeds', '1', '1'], 'different'),
        (['--batch-sizes', '0'], '1 or more'),
        (['--jobs', '0'], '--jobs 0: must be'),
        (['--speed-seconds', '-1'], '--speed-seconds'),
        (['--speed-only', '--speed-seconds', '0'], 'more than 0'),
        (['--where', 'head'], 'invalid choice'),
        (['--learning-rates', '0.1', '0'], '0.1 0: must be different'),
        (['--learning-rates', '0.1', '1e-1'], 'different'),
        (['--learning-rates', 'nan'], 'more than 0'),
    ],
)
def test_bad_options(options, words, capsys):
    with pytest.raises(SystemExit) as stop:
        load_tool(TOOL).parse_args(['x.py', *options])
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_bad_configs_are_refused_before_anything_runs(tool, tiny_config, tmp_path):
    config = tmp_path / 'bad.py'
    config.write_text(f"_base_ = '{tiny_config}'\nval_dataloader = dict(dataset=dict(ann_file='gone.json'))\n")
    with pytest.raises(FileNotFoundError, match='gone.json'):
        tool(config=config)
    with pytest.raises(FileNotFoundError, match='--report-only'):
        tool('--report-only')
    with pytest.raises(KeyError, match='BM'):
        tool(norms=['BM'])
    assert not (tool.out / 'results.json').exists()


def test_speed(tool):
    tool('--speed-only', '--speed-seconds', '1', norms=['BN', 'wide=dict(type="CBN",buffer_num=2,burnin=5)'])
    speed = read(tool)['speed']
    norms = speed['batch_sizes']['2']
    assert speed['reference'] == 'BN' and norms['BN']['ratio'] == 1 and norms['BN']['window_mib'] == 0
    assert norms['wide']['window_mib'] > 0 and norms['wide']['ratio'] > 1
    assert norms['wide']['seconds'] == pytest.approx(norms['BN']['seconds'] * norms['wide']['ratio'])
    assert 'window MiB' in (tool.out / 'index.html').read_text()


def test_speed_at_the_first_learning_rate(tool, monkeypatch):
    seen = []
    monkeypatch.setattr('mmdet.comparison.runner.measure_speed', lambda configs, *rest: seen.append(configs))
    tool('--speed-only', '--speed-seconds', '1', '--learning-rates', '0.04', '0.01')
    assert {norm: config.optim_wrapper.optimizer.lr for norm, config in seen[0][2].items()} == {'BN': 0.04, 'GN': 0.04}


def test_a_real_training(tiny_config, tmp_path):
    load_tool(TOOL).main(
        [
            str(tiny_config),
            '--norms',
            'GN=dict(type="GN",num_groups=8)',
            '--batch-sizes',
            '3',
            '--work-dir',
            str(tmp_path),
            '--speed-seconds',
            '0',
            '--cfg-options',
            'train_cfg.max_epochs=1',
        ]
    )
    cell = json.loads((tmp_path / 'results.json').read_text())['cells']['GN_b3_s0']
    assert len(cell['losses']) == 2 and len(cell['curve']) == 1 and cell['memory_mib'] > 100  # 6 images
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(cell['metrics']) and len(cell['detections']) == 4
    assert 'data:image/webp' in (tmp_path / 'index.html').read_text()


@pytest.mark.slow
def test_killed_and_gone_on_with(tiny_config, tmp_path):
    """As a user runs it: SyncCBN on two processes, stopped, and resumed from the checkpoint that was saved."""
    command = [
        sys.executable,
        str(ROOT / TOOL),
        str(tiny_config),
        '--norms',
        'SyncCBN',
        '--batch-sizes',
        '1',
        '--processes',
        '2',
        '--work-dir',
        str(tmp_path),
        '--speed-seconds',
        '1',
        '--cfg-options',
        'train_cfg.max_epochs=30',
        'train_cfg.val_interval=30',
    ]
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    first = subprocess.Popen(command, env=env, cwd=ROOT)
    output = tmp_path / 'cells' / 'SyncCBN_b1_s0' / 'output.txt'
    while not (output.is_file() and 'Epoch(train)' in output.read_text()):
        assert first.poll() is None
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    assert first.wait(200) == 130
    assert list((output.parent / 'run').glob('*.pth'))  # of an iteration or an epoch, as the signal finds it
    subprocess.run([*command, '--resume'], env=env, cwd=ROOT, check=True)
    data = json.loads((tmp_path / 'results.json').read_text())
    assert len(data['cells']) == 1 and 'resumed epoch' in output.read_text() and data['speed']
