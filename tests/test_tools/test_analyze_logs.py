"""tools/analysis_tools/analyze_logs.py."""

import json
from pathlib import Path

import pytest
from conftest import load_tool
from matplotlib import pyplot as plt

from mmdet.run.ending import run_main


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/analysis_tools/analyze_logs.py')


@pytest.fixture
def runs(tmp_path):
    """Work dirs of two runs."""
    for name, speed in (('one', 0.1), ('two', 0.2)):
        path = tmp_path / name / '20250101_000000/vis_data/scalars.json'
        path.parent.mkdir(parents=True)
        lines = [
            dict(loss=1 / i, loss_cls=0.5 / i, time=speed * i, epoch=1 + i // 4, iter=i, step=i) for i in range(1, 8)
        ]
        lines += [{'coco/bbox_mAP': 0.1 * i, 'step': i} for i in (1, 2)]
        path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return [str(tmp_path / 'one'), str(tmp_path / 'two')]


@pytest.mark.parametrize(
    'options, titles, lines',
    [
        (['--keys', 'loss'], ['iteration'], ['one', 'two']),
        (['--keys', 'loss_cls', 'bbox_mAP'], ['iteration', 'epoch'], ['one loss_cls', 'two loss_cls']),
        (['--legend', 'A', 'B', '--title', 'T', '--style', 'dark', '--backend', 'Agg'], ['epoch'], ['A', 'B']),
    ],
)
def test_plot(tool, runs, tmp_path, monkeypatch, options, titles, lines):
    figures = []
    monkeypatch.setattr(tool.plt, 'close', figures.append)
    out = tmp_path / 'new' / 'curves.png'
    tool.main(['plot_curve', *runs, *options, '--out', str(out)])
    assert out.read_bytes()[:4] == b'\x89PNG'
    axes = figures[0].axes
    assert [axis.get_xlabel() for axis in axes] == titles
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == lines
    monkeypatch.undo()
    plt.close('all')


def test_plot_as_pdf_from_one_file(tool, runs, tmp_path):
    file = next(Path(runs[0]).glob('*/vis_data/scalars.json'))
    tool.main(['plot_curve', str(file), '--keys', 'loss', '--out', str(tmp_path / 'a.pdf')])
    assert (tmp_path / 'a.pdf').read_bytes()[:4] == b'%PDF'


@pytest.mark.parametrize(
    'options, says',
    [
        (['--keys', 'bbox'], "no key 'bbox'; training has loss, loss_cls, time; evaluation has coco/bbox_mAP"),
        (['--start-epoch', '9'], 'no value with --start-epoch 9'),
        (['--style', 'nice'], '--style nice: known are dark'),
        (['--backend', 'Paper'], '--backend Paper'),
        (['--out', 'curves.xyz'], "curves.xyz: the file's name must end with"),
    ],
)
def test_plot_errors(tool, runs, tmp_path, monkeypatch, capsys, options, says):
    monkeypatch.chdir(tmp_path)
    command = ['plot_curve', *runs, '--out', 'curves.png', *options]
    assert run_main(lambda: tool.main(command)) == 1
    assert says in capsys.readouterr().err.split('\nerror: ')[-1]
    assert not list(tmp_path.glob('curves*'))
    plt.close('all')


@pytest.mark.parametrize(
    'command',
    [['plot_curve', 'a', 'b', '--legend', 'one'], ['plot_curve'], [], ['plot_curve', 'a', '--start-epoch', '0']],
)
def test_usage_errors(tool, command):
    with pytest.raises(SystemExit) as error:
        tool.main(command)
    assert error.value.code == 2


def test_train_time(tool, runs, capsys):
    tool.main(['cal_train_time', *runs])
    first, second = capsys.readouterr().out.split('-----Analyze train time of ')[1:]
    assert first.startswith(runs[0]) and second.startswith(runs[1])
    assert 'slowest epoch 2, average time is 0.6000 s/iter' in first
    assert 'fastest epoch 1, average time is 0.2500 s/iter' in first
    assert 'average iter time: 0.4600 s/iter' in first and 'average iter time: 0.9200 s/iter' in second
    tool.main(['cal_train_time', runs[0], '--include-outliers'])
    assert 'average iter time: 0.4000 s/iter' in capsys.readouterr().out
