"""mmdet benchmark: its table, its workers, and what it says of one that fails."""

import argparse
import re
import sys

import pytest

from mmdet.analysis.benchmark import command, main
from mmdet.analysis.benchmark.command import Row
from mmdet.analysis.benchmark.contender import Contender
from mmdet.engine.amp import emulates_bfloat16


def test_ratios_are_to_the_faster_peer():
    row = Row('work', 0.5, values=dict(ours=[1, 2, 3], torchvision=[9, 9, 9], mmdetection=[4, 4, 12]))
    assert row.against() == 'mmdetection' and row.ratios() == [0.25, 0.5, 0.25]
    names = ['ours', 'torchvision', 'mmdetection']
    assert row.cells(names) == ['work', '2 s', '9 s', '4 s', '**0.25** (0.25 to 0.50)', '0.5']
    row.failed['torchvision'] = 'no such thing'
    assert row.cells(names)[2] == 'fails'


def test_without_a_peer_the_target_is_in_seconds():
    assert Row('start', limit=5, values=dict(ours=[4.0])).cells(['ours', 'torchvision']) == [
        'start',
        '4 s',
        '',
        '',
        '5 s',
    ]
    assert Row('nothing').cells(['ours']) == ['nothing', '', '', '']


def test_a_worker_answers_and_its_last_words_are_passed_on(tmp_path):
    settings = dict(work='evaluate', kinds=['bbox'], annotations=str(tmp_path / 'absent.json'))
    with pytest.raises(RuntimeError, match=r'absent\.json'):
        Contender('own', sys.executable, 'coco', settings, tmp_path)


def test_a_peer_that_fails_is_said_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    """It is started where no other package of its name lies."""
    peer = tmp_path / 'python'
    peer.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && echo 3.5.1 beside $(ls -A)nothing\necho this peer is broken >&2\nexit 1\n'
    )
    peer.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / 'table.md'
    args = ['--only', 'data', '--rounds', '2', '--peers', 'mmdet', '--peer-python', './python', '--out', str(out)]
    main(args)
    text = capsys.readouterr().out
    assert ', 3.5.1 beside nothing' in text
    assert 'data pipeline, 50 images with polygons: mmdetection fails: this peer is broken' in text
    lines = out.read_text().splitlines()
    assert lines[-2:] == text.splitlines()[-2:] and 'medians of 2 rounds' in lines[0]
    assert re.fullmatch(r'\| data pipeline, 50 images with polygons \| [\d.]+ s \| fails \|  \| 0\.5 \|', lines[-1])


def test_a_peer_that_is_absent():
    with pytest.raises(FileNotFoundError, match='--peer-python no/python: no such program'):
        main(['--only', 'data', '--rounds', '1', '--peer-python', 'no/python'])


def test_evaluation_beside_pycocotools(capsys):
    main(['--only', 'evaluate', '--eval-images', '30', '--rounds', '1', '--peers'])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| evaluation')]
    assert [re.search(r'evaluation, (\w+), 30 images', row)[1] for row in rows] == ['bbox', 'segm']
    assert all(re.search(r'\| \*\*0\.\d+\*\* \(', row) for row in rows)


@pytest.mark.parametrize('emulates', [True, False])
def test_bfloat16_where_the_processor_has_it(emulates, monkeypatch, tmp_path):
    bench = command.Bench(argparse.Namespace(device='cpu', peers=['torchvision'], rounds=1), tmp_path)
    bench.add(Row('step', 0.75, values=dict(ours=[2.0], torchvision=[4.0])))
    bench.add(Row('memory', 0.85, 'MiB', values=dict(ours=[2.0], torchvision=[4.0])))
    monkeypatch.setattr(command, 'emulates_bfloat16', lambda: emulates)

    def race(rows, contenders):
        assert all(settings['amp'] for _, _, settings in contenders.values())
        rows[0].values.update(ours=[1.0], torchvision=[2.5])
        bench.add(rows[0])

    monkeypatch.setattr(bench, 'race', race)
    bench.half('step', bench.contenders(work='train'), 1.0, 0.45)
    assert [(row.work, row.ratios()) for row in bench.rows[2:]] == (
        [] if emulates else [('step, bf16, all', [0.4]), ('step, bf16, peers float32', [0.25])]
    )


@pytest.mark.parametrize(
    'words, says',
    [
        (['--peers', 'mmdet'], '--peers mmdet: needs --peer-python'),
        (['--only', 'nothing'], 'invalid choice'),
        (['--rounds', '0'], '1 or more'),
        (['--device', 'cuda'], 'there is no CUDA device here'),
    ],
)
def test_usage_errors(words, says, capsys, monkeypatch):
    monkeypatch.setattr(command.torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit):
        main(words)
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_training_inference_and_start_beside_torchvision(capsys, monkeypatch):
    """All else that the command does, with fewer and smaller images."""
    monkeypatch.setattr(command, 'BATCHES', ((1, 128, 160),))
    main(['--only', 'train', 'infer', 'start', '--rounds', '1', '--peers', 'torchvision', '--profile'])
    text = capsys.readouterr().out
    assert 'profile of 1x 128x160' in text and 'aten::mkldnn_convolution: ' in text
    rows = [line for line in text.splitlines() if line.startswith('| ')][1:]
    # bfloat16 doubles the rows but that of memory, where the processor has it: emulated it takes hours
    assert len(rows) == (2 + 2 + 3 if emulates_bfloat16() else 4 + 6 + 3) and not any('fails' in row for row in rows)
    assert sum('MiB' in row for row in rows) == 1
