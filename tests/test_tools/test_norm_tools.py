"""The norm's benchmarks and the fidelity tool, as a user runs them, at a small size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, load_tool


def run(*command, code=0):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
    )
    assert (done.returncode == 0) == (code == 0), done.stdout[-3000:]
    return done.stdout


def test_fidelity_tool(tiny_config, tmp_path):
    output = run(
        'tools/analysis_tools/cbn_fidelity.py',
        tiny_config,
        '--iters',
        6,
        '--lags',
        2,
        '--measured',
        3,
        '--out-dir',
        tmp_path,
    )
    found = json.loads((tmp_path / 'fidelity.json').read_text())
    assert len(found['layers']) >= 20 + 8 + 1  # backbone, FPN, mask head; the box head where it has RoIs
    for lag in ('1', '2'):
        errors = found['mean'][lag]
        assert 0 < errors['secant, float32 slopes'] <= errors['taylor (paper)'] + 1e-6
        assert errors['secant'] < errors['none']
    assert found['median']['2']['none'] > found['median']['1']['none']
    assert (tmp_path / 'fidelity.md').read_text().strip() in output and 'backbone.bn1' in output
    assert (tmp_path / 'fidelity.png').stat().st_size > 10000


def test_fidelity_tool_says_what_would_be_right(tiny_config, tmp_path, capfd):
    config = tmp_path / 'bn.py'
    config.write_text(
        Path(tiny_config)
        .read_text()
        .replace('norm_cfg = dict(burnin=0, by_epoch=False)', "norm_cfg = dict(_delete_=True, type='BN')")
    )
    assert 'no CBN layer' in run(
        'tools/analysis_tools/cbn_fidelity.py', config, '--iters', 6, '--measured', 3, '--out-dir', tmp_path, code=1
    )
    with pytest.raises(SystemExit, match='2'):
        load_tool('tools/analysis_tools/cbn_fidelity.py').main([str(tiny_config), '--iters', '6'])
    assert '--lags + --measured = 13' in capfd.readouterr().err


@pytest.fixture
def bench(monkeypatch):
    module = load_tool('tools/benchmarks/norm_layer.py')
    monkeypatch.setattr(module, 'SHAPES', {'3x3': ((2, 256, 4, 4), 256, 3), '1x1': ((2, 1024, 3, 3), 256, 1)})
    return module


def test_norm_layer_benchmark(bench, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, 'argv', ['norm_layer.py', '--rounds', '1', '--out', str(tmp_path / 'table.md')])
    bench.main()
    rows = [
        [cell.strip() for cell in line.split('|')[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith('|')
    ]
    table = {row[0]: row[1:] for row in rows}
    assert set(bench.NORMS) <= set(table) and all(len(row) == 6 for row in table.values())
    assert float(table['BN'][2]) == 1 and float(table["CBN, the authors' way"][2]) > 1
    # What the window holds does not depend on the machine.
    assert float(table['CBN exact'][-1]) <= 0.4 and float(table['CBN+ (window of 16)'][-1]) <= 0.2
    assert (tmp_path / 'table.md').read_text().count('\n') == len(rows)


def test_norm_layer_shapes_for_other_batches():
    module = load_tool('tools/benchmarks/norm_layer.py')
    assert module.shapes_of(2, 256) == module.SHAPES
    assert module.shapes_of(1, 32)['mask 3x3 (64,32,14,14)'] == ((64, 32, 14, 14), 32, 3)


def test_train_step_benchmark():
    output = run(
        'tools/benchmarks/train_step.py',
        'configs/shapes/mask-rcnn_r18_fpn.py',
        '--rounds',
        1,
        '--image-size',
        64,
        64,
        '--norms',
        'CBN exact',
    )
    assert '| CBN exact | 14 | ' in output and '| BN |  | ' in output and 'launches' not in output


@pytest.mark.slow
def test_train_step_benchmark_with_the_norm_everywhere():
    output = run(
        'tools/benchmarks/train_step.py',
        'configs/shapes/mask-rcnn_r18_fpn.py',
        '--rounds',
        1,
        '--image-size',
        64,
        64,
        '--norms',
        'CBN exact',
        'none',
        '--batch-size',
        1,
        2,
        '--profile',
        '--where',
        'backbone',
        'neck',
        'bbox_head',
        'mask_head',
    )
    assert output.count('| CBN exact | 34 | ') == 2 and '| none |' not in output and '| launches |' in output
    assert ', 1 images of' in output and ', 2 images of' in output
    assert 'no such part' in run(
        'tools/benchmarks/train_step.py', 'configs/bccd/faster-rcnn_r18_fpn.py', '--where', 'mask_head', code=1
    )
