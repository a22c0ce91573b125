"""tools/analysis_tools/small_batch.py as its user runs it: table, plot, what is trained again and what is not."""

import json
import re
import subprocess
import sys

import cv2
import pytest
from conftest import ROOT, load_tool

TOOL = ROOT / 'tools' / 'analysis_tools' / 'small_batch.py'
OPTIONS = ['--norms', 'BN', 'paper-4', '--batch-sizes', '12', '--seeds', '0', '--epochs', '1']


def results(out):
    return json.loads((out / 'results.json').read_text())


def accuracies(out, epochs=1):
    return {(r['label'], r['batch_size']): r['accuracy'] for r in results(out) if r['epochs'] == epochs}


@pytest.fixture
def tool():
    return load_tool(TOOL)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Folder of a finished run, and what it printed."""
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn, which is not installed')
    out = tmp_path_factory.mktemp('small_batch')
    done = subprocess.run(
        [sys.executable, str(TOOL), *OPTIONS, '--workers', '2', '--out-dir', str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'trainings: 3, finished before: 0' in done.stdout
    return out, done.stdout


@pytest.fixture
def again(tool, finished, capsys):
    """Runs the tool in the same folder, in this process; gives what it prints."""

    def run(*options):
        tool.main([*OPTIONS, '--workers', '1', '--out-dir', str(finished[0]), *options])
        return capsys.readouterr().out

    return run


def test_table_and_plot(finished):
    out, printed = finished
    text = (out / 'table.md').read_text()
    assert text in printed
    rows = [[cell.strip() for cell in line.split('|')] for line in text.splitlines() if line.startswith('|')]
    found = accuracies(out)
    assert set(found) == {('BN', 12), ('paper-4', 12), ('BN', 16)}
    assert rows[0][3:-1] == ['batch 12']
    assert [(row[1], row[3]) for row in rows[2:]] == [(n, f'{found[n, 12]:.1f}') for n in ('BN', 'paper-4')]
    assert f'BN with batch 16: {found["BN", 16]:.1f}' in text
    assert 30 < found['paper-4', 12] <= 100  # it learned: chance is 10
    picture = cv2.imread(str(out / 'plot.png'))
    assert picture.shape[1] > 800 and len({tuple(colour) for colour in picture[::2, ::2].reshape(-1, 3)}) > 20


def test_what_is_finished_is_not_trained_again(finished, again):
    out, _ = finished
    before, table = (out / 'results.json').read_bytes(), (out / 'table.md').read_bytes()
    (out / 'plot.png').unlink()
    assert 'trainings: 3, finished before: 3' in again()
    assert (out / 'results.json').read_bytes() == before  # the seconds too
    assert (out / 'table.md').read_bytes() == table and (out / 'plot.png').is_file()


def test_restart_gives_the_same_and_processes_change_nothing(finished, again):
    out, _ = finished
    before = accuracies(out)
    assert 'trainings: 3, finished before: 0' in again('--restart')
    assert accuracies(out) == before and len(results(out)) == 3


def test_changed_settings_are_trained_and_the_rest_kept(finished, again):
    out, _ = finished
    before = accuracies(out)
    assert 'trainings: 1, finished before: 0' in again('--norms', 'BN', '--batch-sizes', '16', '--epochs', '2')
    assert '2 epochs' in (out / 'table.md').read_text()
    assert set(accuracies(out, 2)) == {('BN', 16)} and accuracies(out) == before


@pytest.mark.parametrize(
    'options, words',
    [
        (['--norms', 'paper4'], "unknown norm 'paper4'; known are BN, GN, naive-4, paper-4.*nearest: 'paper-4'"),
        (['--batch-sizes', '0'], '--batch-sizes: 0: must be a whole number, 1 or more'),
        (['--batch-sizes', '1201'], '--batch-sizes must be at most 1200.*got 1201'),
        (['--epochs', '0'], '--epochs: 0: must be a whole number, 1 or more'),
    ],
)
def test_bad_options(tool, capsys, options, words):
    with pytest.raises(SystemExit):
        tool.main(options)
    assert re.search(words, capsys.readouterr().err)


def test_other_peoples_file_is_not_overwritten(tool, tmp_path):
    (tmp_path / 'results.json').write_text('{"theirs": 1}')
    with pytest.raises(ValueError, match='results.json: not results of this tool.*another --out-dir'):
        tool.read_results(tmp_path / 'results.json')


def test_without_scikit_learn(tool, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    monkeypatch.setattr(tool, 'digits', tool.digits.__wrapped__)  # without its cache
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        tool.main(['--out-dir', str(tmp_path)])


def test_names_in_the_plot_do_not_meet(tool):
    places = tool._spaced([0.3, 0.0, 0.01, 0.02], 0.1)
    ordered = sorted(places)
    assert all(b - a > 0.099 for a, b in zip(ordered, ordered[1:]))
    assert list(places.argsort()) == [1, 2, 3, 0]
