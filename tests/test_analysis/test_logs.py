"""mmdet/analysis/logs.py and curves.py: what runs have logged."""

import json

import pytest
from matplotlib import pyplot as plt

from mmdet.analysis.curves import plot_curves, run_names
from mmdet.analysis.logs import epoch_times, find_keys, get_curve, read_log, time_summary


def train(iteration, epoch=1, loss=1.0, time=0.1, **more):
    return dict(lr=0.1, loss=loss, time=time, epoch=epoch, iter=iteration, step=iteration, **more)


def evaluation(step, value):
    return {'coco/bbox_mAP': value, 'coco/bbox_mAP_l': -1.0, 'time': 9.0, 'step': step}


def write(path, *records, tail=''):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(record) + '\n' for record in records) + tail)
    return path


@pytest.fixture
def resumed(tmp_path):
    """A run of 3 epochs of 10 iterations, killed in the third and gone on with from the checkpoint after the first."""
    for name in ('scalars.json', '20250101_000000.json'):
        write(
            tmp_path / 'run/20250101_000000/vis_data' / name,
            train(5),
            train(10),
            evaluation(1, 0.1),
            train(15, 2),
            train(20, 2),
            evaluation(2, 0.2),
            train(25, 3),
            tail='{"loss": 0.',
        )
    write(
        tmp_path / 'run/20250102_000000/vis_data/scalars.json',
        train(12, 2, loss=7.0),
        train(17, 2),
        evaluation(2, 0.25),
        train(22, 3),
        train(27, 3),
        evaluation(3, 0.3),
    )
    (tmp_path / 'run/config.json').write_text('no log')
    return tmp_path / 'run'


def test_sessions_are_put_together(resumed):
    log = read_log(resumed)
    assert [record['iter'] for record in log.train] == [5, 10, 12, 17, 22, 27]
    assert [(record['step'], record['coco/bbox_mAP']) for record in log.val] == [(1, 0.1), (2, 0.25), (3, 0.3)]
    assert log.train[2]['loss'] == 7.0


def test_resumed_within_an_epoch_and_stopped_before_its_evaluation(tmp_path):
    write(
        tmp_path / '1/vis_data/scalars.json',
        train(5),
        train(10),
        evaluation(1, 0.1),
        train(15, 2),
        train(20, 2),
        evaluation(2, 0.2),
    )
    write(tmp_path / '2/vis_data/scalars.json', train(18, 2))
    log = read_log(tmp_path)
    assert [record['iter'] for record in log.train] == [5, 10, 15, 18]
    assert [record['step'] for record in log.val] == [1]  # the second is of weights that are no more


@pytest.mark.parametrize(
    'part, iterations',
    [
        ('20250101_000000', [5, 10, 15, 20, 25]),
        ('20250101_000000/vis_data', [5, 10, 15, 20, 25]),
        ('20250101_000000/vis_data/20250101_000000.json', [5, 10, 15, 20, 25]),
        ('20250102_000000/vis_data/scalars.json', [12, 17, 22, 27]),
    ],
)
def test_parts_of_a_run(resumed, part, iterations):
    assert [record['iter'] for record in read_log(resumed / part).train] == iterations


def test_time_json_where_it_is_alone(resumed):
    for file in resumed.glob('*/vis_data/scalars.json'):
        file.unlink()
    assert [record['iter'] for record in read_log(resumed).train] == [5, 10, 15, 20, 25]


def test_cut_last_line_and_nothing_before_it(tmp_path):
    assert read_log(write(tmp_path / 'scalars.json', tail='{"lr": 0.1, "lo')) == ([], [])
    assert len(read_log(write(tmp_path / 'scalars.json', train(1), tail='{"lr": \xff')).train) == 1


@pytest.mark.parametrize(
    'text, says',
    [
        ('{"loss": 1, "step": 1}\n{"loss\n{"loss": 1, "step": 3}\n', 'line 2: not a JSON record'),
        ('model = 1', 'line 1: not a JSON record'),
        ('[1, 2]\n', 'line 1: not a record but'),
        ('{"loss": 1}\n', "line 1: no 'step' or 'iter'"),
        ('{"loss": [1], "step": 1}\n', 'line 1: loss must be a number'),
        ('{"loss": 1, "step": 1, "lr": {}}\n', 'line 1: lr must be a number'),
        ('{"loss": 1, "step": "a"}\n', 'line 1: step must be a number'),
    ],
)
def test_bad_line_is_named(tmp_path, text, says):
    path = tmp_path / 'scalars.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as error:
        read_log(path)
    assert str(path) in str(error.value)


def test_no_log(tmp_path):
    (tmp_path / 'other.json').write_text('{}')
    for path in (tmp_path, tmp_path / 'absent'):
        with pytest.raises(FileNotFoundError, match='no such log'):
            read_log(path)


def test_curves(resumed):
    log = read_log(resumed)
    assert get_curve(log, 'loss') == ('train', 'loss', [5, 10, 12, 17, 22, 27], [1.0, 1.0, 7.0, 1.0, 1.0, 1.0])
    assert get_curve(log, 'loss', start_epoch=3).x == [22, 27]
    for key in ('bbox_mAP', 'coco/bbox_mAP'):
        assert get_curve(log, key) == ('val', 'coco/bbox_mAP', [1, 2, 3], [0.1, 0.25, 0.3])
    assert get_curve(log, 'bbox_mAP', start_epoch=2).x == [2, 3] and get_curve(log, 'bbox_mAP', 1, 2).x == [2]
    assert get_curve(log, 'bbox_mAP_l').x == []  # -1: no such objects
    assert find_keys(log) == dict(train=['lr', 'loss', 'time'], val=['coco/bbox_mAP', 'coco/bbox_mAP_l'])
    with pytest.raises(KeyError, match="no key 'bbox'; training has lr, loss, time; evaluation has coco/bbox_mAP, "):
        get_curve(log, 'bbox')


def test_epoch_times(tmp_path):
    log = read_log(
        write(
            tmp_path / 'scalars.json',
            train(5, 1, time=9.0),
            train(10, 1, time=1.0),
            train(15, 1, time=2.0),
            train(20, 2, time=8.0),
            train(25, 2, time=0.5),
            train(30, 3, time=4.0),
        )
    )
    assert epoch_times(log) == {1: [1.0, 2.0], 2: [0.5], 3: [4.0]}
    assert epoch_times(log, include_outliers=True) == {1: [9.0, 1.0, 2.0], 2: [8.0, 0.5], 3: [4.0]}
    found = time_summary({1: [1.0, 2.0], 2: [0.5], 3: [3.5]})
    assert found == dict(slowest=(3, 3.5), fastest=(2, 0.5), std=pytest.approx((14 / 9) ** 0.5), mean=1.75)


@pytest.mark.parametrize(
    'paths, names',
    [
        (['w/cells/a_s0/run', 'w/cells/b_s0/run'], ['a_s0', 'b_s0']),
        (['w/a/20250101_000000/vis_data/scalars.json'], ['a']),
        (
            ['x/a/run', 'y/a', 'y/b', 'y/a/20250101_000000/vis_data/20250101_000000.json'],
            ['x/a', 'y/a', 'b', 'y/a (2)'],
        ),
    ],
)
def test_names_of_runs(paths, names):
    assert run_names(paths) == names


def test_colour_is_the_run_and_line_the_key(resumed):
    log = read_log(resumed)
    figure, axes = plt.subplots()
    curves = [get_curve(log, key) for _ in range(2) for key in ('loss', 'lr')]
    plot_curves(axes, curves, list('abcd'), [0, 0, 1, 1], 'iteration')
    a, b, c, d = axes.lines
    assert a.get_color() == b.get_color() != c.get_color() == d.get_color()
    assert a.get_linestyle() == c.get_linestyle() != b.get_linestyle() == d.get_linestyle()
    assert list(b.get_xdata()) == [5, 10, 12, 17, 22, 27] and axes.get_xlabel() == 'iteration'
    plt.close(figure)
