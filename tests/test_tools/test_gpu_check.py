"""tools/gpu_check.sh without a GPU, and what it is made of."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, load_tool

from mmdet.analysis.measure import Traffic, count_traffic, traffic
from mmdet.run.ending import run_main


def check(tmp_path, *words, **env):
    """Run it; exit status and output."""
    env = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'PYTHON': sys.executable,
        'GPU_CHECK_DIR': str(tmp_path / 'out'),
        **env,
    }
    done = subprocess.run(
        [ROOT / 'tools/gpu_check.sh', *words],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stdout


def test_says_what_is_missing(tmp_path):
    code, output = check(tmp_path, CUDA_VISIBLE_DEVICES='')
    assert code == 2 and 'no CUDA device here' in output and 'GPU_CHECK_DEVICE=cpu' in output
    code, output = check(tmp_path, GPU_CHECK_DEVICE='tpu')
    assert code == 2 and 'GPU_CHECK_DEVICE=tpu: must be cuda or cpu' in output
    code, output = check(tmp_path, 'two', GPU_CHECK_DEVICE='cpu')
    assert code == 2 and 'GPUS=two' in output
    code, output = check(tmp_path, PYTHON='/no/python')
    assert code == 2 and '/no/python lacks a package' in output
    assert not (tmp_path / 'out').exists()


STUB = """#!/bin/sh
case "$*" in
  *device_count*) echo 0;;
  *launch*) echo 'no such card'; exit 1;;
  *train.py*) echo "$*";;
  *norm_layer*) echo secret; exit 3;;
  *) echo '| a | table |';;
esac
"""


def test_goes_on_after_a_failure_and_says_what_failed(tmp_path):
    python = tmp_path / 'python'
    python.write_text(STUB)
    python.chmod(0o755)
    code, output = check(tmp_path, '3', GPU_CHECK_DEVICE='cpu', PYTHON=str(python))
    assert code == 1 and output.endswith('\nFAILED: layers, SyncCBN_on_3, SyncBN_on_3\n')
    assert 'layers failed, exit code 3; its last lines:\n\n``` text\nsecret\n```' in output
    assert output.count('no such card') == 2 and output.count('\n| a | table |') == 4  # machine, steps, trainings
    assert (tmp_path / 'out/page.md').read_text() == output
    assert ' --amp bf16 --work-dir ' in (tmp_path / 'out/amp_bf16.log').read_text()


def test_takes_nine_minutes_at_most():
    script = (ROOT / 'tools/gpu_check.sh').read_text()
    seconds = {name: int(number) for name, number in re.findall(r'^ *run (\S+) (\d+) ', script, re.M)}
    assert len(seconds) == 7
    # The steps run for two places of the norm, the trainings are four.
    assert sum(seconds.values()) + seconds['$name'] + 3 * seconds['"$name"'] <= 540


@pytest.mark.slow
def test_rehearsal_on_the_cpu(tmp_path):
    code, output = check(tmp_path, '2', GPU_CHECK_DEVICE='cpu')
    assert code == 0 and output.endswith('\nPASS\n'), output[-4000:]
    assert re.search(r'\d+ passed', output) and 'A rehearsal on the CPU' in output
    for number in (1, 4):
        assert f'; {number} images, ratios to BN' in output
        assert output.count(f', {number} images of [64, 64]') == 2
    rows = dict(re.findall(r'^\| (\w+) \| (\d+) \| ', output, re.M))
    assert {'amp_bf16', 'SyncCBN_on_2', 'SyncBN_on_2'} <= set(rows)
    assert re.search(r'^\| CBN\+ \(window of 16\) \| 34 \|', output, re.M)


# -- parts --------------------------------------------------------------------------------------------------------


def test_traffic_is_counted_by_cudas_names():
    events = [
        ('aten::add', 9),
        ('cudaLaunchKernel', 40),
        ('cuLaunchKernelEx', 3),
        ('cudaLaunchKernelExC_v11060', 2),
        ('cudaLaunchCooperativeKernel', 1),
        ('cudaLaunchHostFunc', 5),
        ('cudaMemcpyAsync', 7),
        ('Memcpy DtoH (Device -> Pageable)', 4),
        ('Memcpy DtoH (Device -> Pinned)', 1),
        ('Memcpy HtoD (Pageable -> Device)', 6),
        ('cudaStreamSynchronize', 5),
        ('cudaDeviceSynchronize', 1),
        ('cudaEventSynchronize', 1),
        ('cudaStreamIsCapturing', 8),
    ]
    assert count_traffic(events) == Traffic(launches=46, reads=5, waits=7)


def test_traffic_of_work_on_the_cpu():
    done = []
    assert traffic(lambda: done.append(1)) == Traffic(0, 0, 0) and done == [1]


@pytest.fixture
def report():
    return load_tool('tools/benchmarks/gpu_report.py')


def test_machine(report, capsys):
    report.main(['machine'])
    output = capsys.readouterr().out
    assert '| torch | ' in output and output.startswith('|  |  |\n| --- | --- |\n')
    text = 'NVIDIA H100 80GB HBM3, 570.86.15, 81559 MiB\nNVIDIA H100 80GB HBM3, 570.86.15, 81559 MiB\n'
    assert report.smi_rows(text) == [['NVIDIA H100 80GB HBM3', '570.86.15', '81559 MiB']] * 2
    assert report.smi_rows("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.") == []


def logged(folder, losses):
    path = folder / '20261101_000000' / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    lines = [dict(loss=loss, time=0.1 * i, memory=100 + i, iter=i, step=i) for i, loss in enumerate(losses, 1)]
    path.write_text('\n'.join(map(json.dumps, [*lines, {'coco/bbox_mAP': 0.123, 'step': 1}])))
    return str(folder)


def test_trainings(report, tmp_path, capsys):
    report.main(['trainings', logged(tmp_path / 'good', [4, 3.5, 3])])
    assert capsys.readouterr().out.splitlines()[-1] == '| good | 3 | 4.00 | 3.00 | 200 | 103 | 12.3 |'
    bad = [logged(tmp_path / name, losses) for name, losses in (('up', [4, 5]), ('nan', [4, float('nan'), 3]))]
    assert run_main(lambda: report.main(['trainings', *bad, str(tmp_path / 'good')])) == 1
    output = capsys.readouterr()
    assert output.out.count('\n| ') == 4 and 'has not fallen: up, nan' in output.err
