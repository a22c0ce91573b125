"""The page on a grid of trainings, its numbers and pictures."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmdet.comparison.numbers import Numbers, Stat, differ, markdown, metric_name, per_cent, stat, summary
from mmdet.comparison.pictures import Pictures, match
from mmdet.comparison.plots import bounds, merge, plot, ticks
from mmdet.comparison.report import write_report
from mmdet.comparison.results import Results, to_text
from mmdet.config import load_config

VOID = {'meta', 'link', 'input', 'br', 'img', 'hr'}
# As the first version of the tool wrote them: no grid, no speed, no unit, no time
OLD = dict(
    norm_cfg=None,
    processes=1,
    iteration_seconds=0.5,
    gpu_memory_mib=None,
    memory_mib=900,
    seconds=60,
    config='train_cfg = dict(max_epochs=2)\n',
    cell_config="_base_ = 'x.py'\n",
    command='python tools/train.py <x>.py',
    machine=dict(torch='2', device='CPU', cores=2),
    detections={},
)


def make_cell(norm, batch, seed, ap, **changes):
    curve = [
        {'step': step, 'coco/bbox_mAP': ap * step / 2, 'coco/bbox_mAP_50': ap, 'coco/bbox_mAP_l': -1.0}
        for step in (1, 2)
    ]
    metrics = {key: value for key, value in curve[-1].items() if key != 'step'}
    return dict(
        OLD,
        norm=norm,
        batch_size=batch,
        seed=seed,
        curve=curve,
        metrics=metrics,
        losses=[[10 * i, 3.0 / i] for i in range(1, 9)],
        images_per_second=2.0 * batch,
        **changes,
    )


def make_data(values, **changes):
    cells = {
        f'{norm}_b{batch}_s{seed}': make_cell(norm, batch, seed, ap)
        for (norm, batch), aps in values.items()
        for seed, ap in enumerate(aps)
    }
    return dict(kind='mmdet norm comparison', cells=cells, failed={}, **changes)


class Checker(HTMLParser):
    """Every tag is closed in turn; what the page refers to; its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.words, self.rows = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')
        assert tag not in ('script', 'iframe')
        for key, value in attrs:
            assert not key.startswith('on')
            if key in ('src', 'href', 'srcset', 'data', 'action', 'poster'):
                self.references.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and {'td', 'th'} & set(self.open):
            self.rows[-1][-1] += data


def read_page(path):
    text = path.read_text()
    page = Checker(text)
    assert all(ref.startswith(('data:', '#')) for ref in page.references)
    style = text[text.index('<style>') : text.index('</style>')]
    assert 'url(' not in style and '@import' not in style
    return page


def test_means_and_spread():
    values = np.random.default_rng(0).uniform(size=7)
    found = stat(values.tolist())
    assert np.allclose(found[:2], [values.mean(), values.std(ddof=1)]) and found.n == 7
    assert stat([]) is None and stat([0.3]).sd is None
    assert per_cent(Stat(0.3125, 0.011, 3)) == '31.2 ± 1.1' and per_cent(Stat(0.3, None, 1)) == '30.0'


def test_welch():
    scipy = pytest.importorskip('scipy.stats')
    generator = np.random.default_rng(1)
    for _ in range(200):
        a, b = generator.normal(0, 1, 3), generator.normal(generator.uniform(0, 4), 2, 4)
        assert differ(stat(a), stat(b)) == (scipy.ttest_ind(a, b, equal_var=False).pvalue < 0.05)
    assert differ(Stat(1, None, 1), Stat(0, 0.1, 3)) is None
    assert differ(Stat(1, 0.0, 2), Stat(1, 0.0, 3)) is False and differ(Stat(1, 0.0, 2), Stat(2, 0.0, 3)) is True
    assert differ(Stat(1, 0.0, 2), Stat(2, 0.1, 3)) is True


def test_only_what_is_clear_is_called_best():
    data = make_data(
        {
            ('BN', 1): [0.10, 0.11, 0.09],
            ('GN', 1): [0.30, 0.31, 0.32],
            ('CBN', 1): [0.305, 0.312, 0.32],
            ('BN', 4): [0.30],
            ('GN', 4): [0.29, 0.30],
            ('CBN', 4): [0.6, 0.601],
        }
    )
    numbers = Numbers(data)
    assert numbers.clear_best(1, 'coco/bbox_mAP') is None
    data['cells'].pop('BN_b4_s0')
    assert numbers.clear_best(4, 'coco/bbox_mAP') is None  # BN has one seed
    assert Numbers(data).clear_best(4, 'coco/bbox_mAP') == 'CBN'
    first, second, change, *_ = summary(numbers)
    assert 'CBN has the highest mean box AP, 31.2' in first and 'clearly above BN (10.0' in first
    assert 'within the spread of the seeds of GN (31.0' in first
    assert 'clearly above GN' in second and 'chance cannot be ruled out in the difference to BN' in second
    assert 'BN −20.0 (one seed), GN +1.5 (within the spread), CBN −28.8.' in change
    assert summary(Numbers(make_data({}))) == ['Nothing is finished yet.']


def test_metrics_that_no_object_has_are_left_out():
    numbers = Numbers(make_data({('BN', 2): [0.1]}))
    assert numbers.keys == ['coco/bbox_mAP', 'coco/bbox_mAP_50']
    assert [metric_name(key) for key in ('coco/segm_mAP_50', 'a/bbox_mAP_s', 'other')] == [
        'mask AP50',
        'box AP small',
        'other',
    ]


def test_seeds_are_in_order_whatever_was_asked_for_last():
    data = make_data({('BN', 1): [0.2, 0.3, 0.4]}, grid=dict(norms={'BN': {}}, batch_sizes=[1], seeds=[2]))
    assert Numbers(data).seeds == [0, 1, 2]


def test_page_of_an_old_file(tmp_path):
    values = {
        ('BN', 1): [0.1, 0.2, 0.4],
        ('BN', 2): [0.3, 0.3, 0.3],
        ('<GN>', 1): [0.5, 0.52, 0.6],
        ('<GN>', 2): [0.25],
    }
    data = make_data(values)
    data['failed'] = {'<GN>_b2_s1': 'no <memory> & no time'}
    page = read_page(write_report(json.loads(json.dumps(data)), tmp_path))
    rows = {}
    for row in page.rows:
        rows.setdefault(row[0] if row else '', row[1:])
    for norm in ('BN', '<GN>'):
        wanted = []
        for _ in range(2):  # AP and AP50
            for batch in (1, 2):
                aps = 100 * np.array(values[norm, batch])
                spread = f' ± {aps.std(ddof=1):.1f}' if len(aps) > 1 else ''
                wanted.append(f'{aps.mean():.1f}{spread}' + (f' ({len(aps)})' if len(aps) < 3 else ''))
        assert rows[norm] == wanted
    text = ' '.join(page.words)
    assert '11 trainings: 10 finished, 1 failed, 0 not' in text and 'no <memory> & no time' in text
    assert 'No training has kept detections' in text or 'not asked for' in text
    assert 'max_epochs=2' in text and 'python tools/train.py <x>.py' in text
    assert text.count('http') == 0
    table = (tmp_path / 'table.md').read_text()
    assert table.splitlines()[0] == '| box AP, % | batch 1 | batch 2 |' and '| BN | 23.3 ± 15.3 | 30.0 ± 0.0 |' in table
    assert 'http-equiv' not in (tmp_path / 'index.html').read_text() and 'learning rate' not in text


def test_page_of_a_grid_that_runs(tmp_path):
    grid = dict(
        config='configs/x.py',
        command='python tools/compare_norms.py x.py',
        norms=dict(GN=dict(type='GN', num_groups=8), BN=dict(type='BN')),
        batch_sizes=[1, 2],
        seeds=[0, 1],
        processes=2,
        jobs=2,
        places=['neck'],
        cells=['GN_b1_s0', 'BN_b1_s0', 'GN_b1_s1'],
        versions=dict(torch='2.9'),
    )
    speed = dict(
        note='in turns',
        reference='BN',
        batch_sizes={
            '1': {
                'GN': dict(seconds=0.25, ratio=1.25, peak_mib=None, window_mib=0.0),
                'BN': dict(seconds=0.2, ratio=1.0, peak_mib=100.0, window_mib=0.0),
            }
        },
    )
    data = make_data({('BN', 1): [0.1]}, grid=grid, speed=speed)
    data['cells']['BN_b1_s0'].update(processes=2, unit='iteration')
    page = read_page(write_report(data, tmp_path, running=True))
    text = ' '.join(page.words)
    assert 'Norms compared: x' in text and '3 trainings: 1 finished, 0 failed, 2 not' in text
    assert 'GN_b1_s0, GN_b1_s1' in text and "dict(type='GN', num_groups=8)" in text and 'torch 2.9' in text
    assert 'batch size 2, 4;' in text  # of both processes
    assert ['GN', '4.0', '1.25', '–', '0.0'] in page.rows and ['BN', '5.0', '1.00', '100', '0.0'] in page.rows
    assert 'http-equiv="refresh"' in (tmp_path / 'index.html').read_text()
    assert '| GN | 250 | 4.0 | 1.25 | – | 0.0 |' in markdown(Numbers(data), speed)
    read_page(write_report(make_data({}, grid=grid), tmp_path, running=True))  # before the first has finished


def test_page_with_learning_rates(tmp_path):
    values = {
        ('BN', 0.01): [0.1],
        ('BN', 0.02): [0.3, 0.32],
        ('BN', 0.04): [0.5],  # .02 has the most seeds
        ('GN', 0.01): [0.2],
        ('GN', 0.02): [0.4],
    }
    cells = {
        f'{norm}_b1_s{seed}_lr{lr}': make_cell(norm, 1, seed, ap, lr=lr)
        for (norm, lr), aps in values.items()
        for seed, ap in enumerate(aps)
    }
    grid = dict(norms={'BN': None, 'GN': None}, batch_sizes=[1], seeds=[0, 1], learning_rates=[0.01, 0.02, 0.04, 0.08])
    data = dict(make_data({}, grid=grid), cells=cells)
    page = read_page(write_report(data, tmp_path))
    text = ' '.join(page.words)
    edge = 'edge of what was tried, so that a better one may lie beyond it, for GN (lr 0.02) at batch size 1.'
    assert ['BN', '31.0 ± 1.4lr 0.02', '31.0 ± 1.4lr 0.02'] in page.rows and edge in text
    assert ['BN', '10.0 (1)', '31.0 ± 1.4', '50.0 (1)', '–'] in page.rows
    assert ['GN', '20.0 (1)', '40.0 (1)', '–', '–'] in page.rows
    svg = (tmp_path / 'index.html').read_text().split('AP by learning rate')[1].split('</svg>\n')[0]
    svg = svg[svg.index('class="plot"') :]
    points = [
        [float(point.split(',')[0]) for point in line.split()]
        for line in re.findall(r'<polyline[^>]*points="([^"]*)"', svg)
    ]
    assert np.allclose(np.diff(points[0]), np.diff(points[1])[0], atol=0.2) and len(points[0]) == 3  # doubled
    table = (tmp_path / 'table.md').read_text()
    assert '| BN | 31.0 ± 1.4 (lr 0.02) |' in table and '| GN | 40.0 (lr 0.02) |' in table and edge in table
    first, *_ = summary(Numbers(data))
    assert 'GN has the highest mean box AP, 40.0;' in first and 'BN (31.0' in first
    data['cells'].update(make_data({('BN', 1): [0.1, 0.2, 0.3]})['cells'])  # of an earlier command line without rates
    assert "| BN | 20.0 ± 10.0 (config's lr) |" in markdown(Numbers(data))
    read_page(write_report(data, tmp_path))


def test_lines_of_plots():
    curve = merge(0, 'BN', [[(1, 0.1), (2, 0.3), (3, float('nan'))], [(1, 0.3), (2, 0.2), (4, 1.0)]])
    assert curve.x == [1, 2] and np.allclose([curve.y, curve.low, curve.high], [[0.2, 0.25], [0.1, 0.2], [0.3, 0.3]])
    assert merge(0, 'BN', [[(1, 1.0)], [(2, 1.0)]]) is None
    for low, high in ((0, 1), (0.93, 1.81), (-3, 4000), (0, 1e-5)):
        values = ticks(low, high)
        assert 3 <= len(values) <= 8 and low <= values[0] + 1e-12 and values[-1] <= high * 1.0001
        assert np.allclose(np.diff(values), values[1] - values[0])
    svg = plot('a & b', [curve], 'epoch', bounds([curve]))
    points = re.search(r'<polyline[^>]*points="([^"]*)"', svg).group(1)
    (x1, y1), (x2, y2) = [map(float, point.split(',')) for point in points.split()]
    assert x1 < x2 and y1 > y2 and 'a &amp; b' in svg  # up is less in SVG


def shape(x, y, w, h, label=0, **more):
    return dict(label=label, mask=None, box=(x, y, w, h), ignored=False, **more)


def test_detections_are_matched_as_in_coco():
    objects = [shape(0, 0, 10, 10), shape(20, 0, 10, 10), shape(40, 0, 10, 10, label=1), shape(60, 0, 40, 40)]
    objects[3]['ignored'] = True
    found = [
        shape(1, 0, 10, 10),
        shape(0, 0, 10, 10),
        shape(20, 4, 10, 10),
        shape(40, 0, 10, 10),
        shape(61, 1, 5, 5),
        shape(62, 9, 5, 5),
    ]
    # the best comes first; one object is found once; too little overlap; another class; inside an ignored region
    assert match(found, objects, 100, 100) == [0, None, None, None, 3, 3]
    assert match([], objects, 9, 9) == [] and match(found, [], 9, 9) == [None] * 6
    plane = np.zeros((20, 20), dtype=np.uint8)
    plane[5:15, 5:15] = 1
    mask = coco_mask.encode(np.asfortranarray(plane))
    polygon = [[5, 5, 15, 5, 15, 15, 5, 15]]
    assert match([dict(shape(0, 0, 1, 1), mask=mask)], [dict(shape(9, 9, 1, 1), mask=polygon)], 20, 20) == [0]


def test_pictures(tiny_config, tmp_path):
    dataset = load_config(str(tiny_config)).val_dataloader.dataset
    annotations = json.loads(Path(dataset.data_root, dataset.ann_file).read_text())
    image = annotations['images'][0]
    objects = [a for a in annotations['annotations'] if a['image_id'] == image['id']]
    pictures = Pictures(dataset, [str(image['id'])])
    assert pictures.problem == ''
    mask = objects[0]['segmentation']
    if isinstance(mask, list):
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, image['height'], image['width']))
        mask = dict(mask, counts=mask['counts'].decode())
    elif isinstance(mask['counts'], list):
        mask = coco_mask.frPyObjects(mask, image['height'], image['width'])
        mask = dict(mask, counts=mask['counts'].decode())
    detection = dict(image_id=image['id'], category_id=objects[0]['category_id'], score=0.9, segmentation=mask)
    data = make_data({('BN', 1): [0.1], ('GN', 1): [0.2]})
    data['cells']['BN_b1_s0']['detections'] = {str(image['id']): [detection]}
    data['grid'] = dict(norms={'BN': None, 'GN': None}, batch_sizes=[2])
    # GN's detections are lacking at batch size 1, where the last command line does not ask for any
    assert write_report(data, tmp_path, pictures).read_text().count('<td>not finished</td>') == 2
    data['grid']['batch_sizes'] = [1]
    path = write_report(data, tmp_path, pictures)
    text = path.read_text()
    read_page(path)
    assert f'{len(objects)} objects<' in text
    assert f'1 right, 0 wrong, {len(objects) - 1} missed<' in text and 'not finished' in text
    assert text.count('data:image/webp') == 1 and text.count('class="ok"') == len(objects) + 1 + 1  # and the key
    x, y, w, h = coco_mask.toBbox(mask)
    outline = re.search(r'<path class="ok" d="([^"]*)"><title>\w+ 0.90', text).group(1)
    points = np.array(re.findall(r'[\d.]+', outline), dtype=float).reshape(-1, 2)
    assert np.allclose([*points.min(0), *points.max(0)], [x, y, x + w, y + h], atol=1)


def test_pictures_that_cannot_be_made(tiny_config, tmp_path):
    dataset = load_config(str(tiny_config)).val_dataloader.dataset
    gone = Pictures(dict(dataset, data_prefix=dict(img='elsewhere/')), ['1', '2'])
    assert 'elsewhere' in gone.problem
    assert 'none of the images' in Pictures(dataset, ['12345']).problem
    assert 'cannot be shown' in Pictures(dict(dataset, ann_file='gone.json'), ['1']).problem
    page = read_page(write_report(make_data({('BN', 1): [0.1]}), tmp_path, gone))
    assert 'elsewhere' in ' '.join(page.words)


def test_text_of_a_strangers_results_is_shown_and_not_run(tmp_path):
    evil = '"><script>alert(1)</script><img src=http://x.org/a onerror=alert(1)>\'&'
    data = make_data({(evil, 1): [0.2, 0.3], ('BN', 1): [0.1]})
    for cell in data['cells'].values():
        cell.update(
            command=evil, config=f'a = {evil!r}\n', cell_config=evil, machine=dict(torch=evil, device=evil, cores=1)
        )
    data['failed'] = {evil: evil}
    data['grid'] = dict(
        config=evil,
        command=evil,
        norms={evil: dict(type=evil), 'BN': dict(type=evil)},
        batch_sizes=[1],
        seeds=[0, 1],
        processes=1,
        jobs=1,
        places=[evil],
        cells=list(data['cells']),
        versions={evil: evil},
    )
    write_report(data, tmp_path)
    page = Checker((tmp_path / 'index.html').read_text())
    assert not any('x.org' in (reference or '') for reference in page.references)
    assert any('alert(1)' in word for word in page.words)


def test_results_are_written_small_and_read_back(tmp_path):
    data = make_data({(norm, batch): [0.31, 0.32] for norm in ('BN', 'GN') for batch in (1, 2)})
    for i, cell in enumerate(data['cells'].values()):
        cell['config'] = f'model = dict(\n    a=1)\nrandomness = dict(seed={i})\n' + 'x = 1\n' * 100
    path = tmp_path / 'results.json'
    path.write_text(to_text(data))
    assert Results(path).data == data
    assert path.read_text().count('x = 1') == 1
    assert len(path.read_text().splitlines()) > len(data['cells'])
    for bad in ([9999], ['a'], [None], [[]]):
        broken = json.loads(to_text(data))
        next(iter(broken['cells'].values()))['config'] = bad
        path.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match='config_parts'):
            Results(path)
