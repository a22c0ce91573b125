"""mmdet/analysis/errors.py against loops over the definition, and its tool."""

import csv
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from conftest import load_tool

from mmdet.analysis.errors import AREAS, KINDS, Analysis, analyze, draw, read_results, read_truth, to_rows
from mmdet.run.ending import run_main

CATEGORIES = [
    dict(id=3, name='cat', supercategory='animal'),
    dict(id=5, name='dog', supercategory='animal'),
    dict(id=9, name='cup', supercategory='thing'),
    dict(id=12, name='none of this', supercategory='thing'),
]


def polygon(box):
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def encode(box):
    """A box of whole pixels as a mask."""
    mask = np.zeros((300, 300, 1), dtype=np.uint8, order='F')
    x, y, width, height = box
    mask[y : y + height, x : x + width] = 1
    [found] = coco_mask.encode(mask)
    return dict(size=found['size'], counts=found['counts'].decode())


def random_set(seed):
    """Annotations, of which some are crowds, and detections: near objects, of right and wrong classes, and others."""
    rng = np.random.default_rng(seed)
    images = [dict(id=i, file_name=f'{i}.jpg', height=300, width=300) for i in (4, 7, 8)]
    annotations, results = [], []
    for image in images:
        objects = [rng.uniform([0, 0, 10, 10], [120, 120, 150, 120]) for _ in range(9)]
        for box in objects:
            annotations.append(
                dict(
                    id=len(annotations),
                    image_id=image['id'],
                    bbox=box.tolist(),
                    iscrowd=int(rng.random() < 0.15),
                    area=box[2] * box[3],
                    category_id=int(rng.choice([3, 5, 9])),
                    segmentation=polygon(box.tolist()),
                )
            )
        for _ in range(30):
            box = (
                objects[rng.integers(9)] + rng.normal(0, 6, 4)
                if rng.random() < 0.7
                else rng.uniform([0, 0, 10, 10], [200, 200, 60, 60])
            )
            results.append(
                dict(
                    image_id=image['id'],
                    category_id=int(rng.choice([3, 5, 9])),
                    bbox=np.maximum(box, 1).tolist(),
                    score=rng.random(),
                )
            )
    return dict(images=images, annotations=annotations, categories=CATEGORIES), results


@pytest.fixture
def files(tmp_path):
    def write(truth, results):
        (tmp_path / 'ann.json').write_text(json.dumps(truth))
        (tmp_path / 'found.bbox.json').write_text(json.dumps(results))
        return str(tmp_path / 'ann.json'), str(tmp_path / 'found.bbox.json')

    return write


def overlap(found, box, crowd):
    width, height = (min(found[i] + found[i + 2], box[i] + box[i + 2]) - max(found[i], box[i]) for i in (0, 1))
    both = max(width, 0) * max(height, 0)
    return both / (found[2] * found[3] + (0 if crowd else box[2] * box[3] - both))


def by_loops(truth, results, category, threshold, mates, area=(0, 1e10)):
    """101 precisions: COCO's matching, with the objects of ``mates`` ignored as crowds of the category itself are."""
    scored, total = [], 0
    for image in truth['images']:
        objects = [one for one in truth['annotations'] if one['image_id'] == image['id']]
        mine = [
            one
            for one in objects
            if one['category_id'] == category and not one['iscrowd'] and area[0] <= one['area'] <= area[1]
        ]
        ignored = [one for one in objects if one not in mine and one['category_id'] in {category, *mates}]
        total += len(mine)
        found = [one for one in results if (one['image_id'], one['category_id']) == (image['id'], category)]
        for one in sorted(found, key=lambda one: -one['score']):
            for pool, right in ((mine, True), (ignored, None)):  # noqa: B007
                fits = [(overlap(one['bbox'], it['bbox'], it['iscrowd']), i) for i, it in enumerate(pool)]
                best = max(fits, default=(0, 0))
                if best[0] >= threshold:
                    if not pool[best[1]]['iscrowd']:
                        del pool[best[1]]
                    break
            else:
                right = False if area[0] <= one['bbox'][2] * one['bbox'][3] <= area[1] else None
            if right is not None:
                scored.append((one['score'], right))
    hits = [right for _, right in sorted(scored, reverse=True)]
    points = [(sum(hits[:i]) / total, sum(hits[:i]) / i) for i in range(1, len(hits) + 1)]
    return [
        max((precision for recall, precision in points if recall >= wanted - 1e-12), default=0)
        for wanted in np.linspace(0, 1, 101)
    ]


@pytest.mark.parametrize('seed', range(4))
def test_against_loops(files, seed):
    data, results = random_set(seed)
    paths = files(data, results)
    truth = read_truth(paths[0], 'bbox')
    found = analyze(truth, read_results(paths[1], 'bbox', truth), 'bbox')
    assert found.classes == ['cat', 'dog', 'cup', 'none of this']
    cases = {'C75': (0.75, ()), 'C50': (0.5, ()), 'Loc': (0.1, ()), 'Sim': (0.1, (3, 5, None)), 'Oth': (0.1, (3, 5, 9))}
    for i, category in enumerate((3, 5, 9)):
        for a, area in enumerate([(0, 1e10), (0, 32**2), (32**2, 96**2)]):
            if not found.objects[i, a]:
                continue
            for kind, (threshold, mates) in cases.items():
                if kind == 'Sim' and category == 9:
                    mates = ()
                expected = by_loops(data, results, category, threshold, mates, area)
                assert found.precision[list(KINDS).index(kind), :, i, a] == pytest.approx(expected), (kind, category)
            oth, bg, fn = found.precision[4:, :, i, a]
            assert (bg == (oth > 0)).all() and (fn == 1).all()
    assert np.isnan(found.precision[:, :, 3]).all() and found.objects[3].tolist() == [0] * 4
    means = found.precision[:, :, :, 0].mean(1)
    assert (np.diff(means[:, :3], axis=0) >= -1e-9).all() and (means[3] > means[2] + 1e-3).any()
    expected = [
        sum(one['category_id'] == category and not one['iscrowd'] for one in data['annotations'])
        for category in (3, 5, 9)
    ]
    assert found.objects[:3, 0].tolist() == expected
    assert found.mean()[:, :, 0] == pytest.approx(found.precision[:, :, :3, 0].mean(2))


def test_masks_of_boxes_are_as_boxes(files):
    data, results = random_set(5)
    for one in data['annotations'] + results:
        one['bbox'] = [round(value) for value in one['bbox']]
        one['segmentation'], one['area'] = encode(one['bbox']), one['bbox'][2] * one['bbox'][3]
    paths = files(data, results)
    analyses = []
    for kind in ('bbox', 'segm'):
        truth = read_truth(paths[0], kind)
        analyses.append(analyze(truth, read_results(paths[1], kind, truth), kind))
    assert np.array_equal(analyses[0].precision, analyses[1].precision, equal_nan=True)


def test_classes_without_supercategory_are_alone(files):
    data, results = random_set(0)
    data['categories'] = [dict(id=one['id'], name=one['name']) for one in CATEGORIES]
    paths = files(data, results)
    truth = read_truth(paths[0], 'bbox')
    found = analyze(truth, read_results(paths[1], 'bbox', truth), 'bbox').precision
    assert np.array_equal(found[2], found[3], equal_nan=True) and not np.array_equal(found[3], found[4], equal_nan=True)


def test_rows_and_figure():
    precision = np.full((7, 101, 1, 4), np.nan)
    precision[..., 0] = np.linspace(0.1, 0.7, 7)[:, None, None]
    analysis = Analysis(precision, ['a'], np.array([[5, 0, 0, 0]]))
    rows = to_rows(analysis)
    assert rows[0] == ['class', 'area', 'objects', *KINDS] and len(rows) == 1 + 2 * len(AREAS)
    assert rows[1] == ['all classes', 'all', 5, *(pytest.approx(0.1 * i) for i in range(1, 8))]
    assert rows[6] == ['a', 'small', 0, *[None] * 7]
    figure = draw('a', precision[:, :, 0], analysis.objects[0])
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert words == ['no objects of this size'] * 3
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()][-1] == '0.100  C75'


# -- the tool ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/analysis_tools/coco_error_analysis.py')


def test_tool(tool, files, tmp_path, capsys):
    ann, found = files(*random_set(0))
    tool.main([found, str(tmp_path / 'out'), '--ann', ann])
    out = tmp_path / 'out/bbox'
    assert sorted(path.name for path in out.iterdir()) == [
        'bbox-01-cat.png',
        'bbox-02-dog.png',
        'bbox-03-cup.png',
        'bbox-allclass.png',
        'errors.csv',
        'errors.json',
    ]
    rows = list(csv.DictReader((out / 'errors.csv').open()))
    numbers = json.loads((out / 'errors.json').read_text())
    assert [row['class'] for row in rows[::4]] == ['all classes', 'cat', 'dog', 'cup', 'none of this'] == list(numbers)
    assert float(rows[0]['C50']) == numbers['all classes']['all']['C50'] > float(rows[0]['C75']) > 0
    assert rows[-1]['C50'] == '' and numbers['none of this']['large']['C50'] is None
    assert '| all classes | all ' in capsys.readouterr().out


def test_nothing_found(files):
    ann, found = files(random_set(0)[0], [])
    truth = read_truth(ann, 'bbox')
    assert to_rows(analyze(truth, read_results(found, 'bbox', truth), 'bbox'))[1][3:] == [0] * 6 + [1]


@pytest.mark.parametrize(
    'content, options, says',
    [
        ('{"a": 1}', [], 'expected a list of detections with image_id, category_id, score, bbox, found a dict'),
        ('[{', [], 'not JSON'),
        ('[{"image_id": 4}]', [], "entry 0 has no 'category_id'"),
        ('[{"image_id": 99, "category_id": 3, "score": 1, "bbox": [1, 2, 3, 4]}]', [], 'image_id 99 is not in the'),
        ('[{"image_id": 4, "category_id": 1, "score": 1, "bbox": [1, 2, 3, 4]}]', [], 'category_id 1 is not in the'),
        (
            '[{"image_id": 4, "category_id": 3, "score": 1, "bbox": [1, 2, 3, 4]}]',
            ['--types', 'segm'],
            "has no 'segmentation', which --types segm needs; masks are in the .segm.json",
        ),
        (
            '[{"image_id": 4, "category_id": 3, "score": 1, "segmentation": [[1, 2, 3, 4, 5, 6]]}]',
            ['--types', 'segm'],
            'entry 0: segmentation must be a compressed run-length encoding',
        ),
    ],
)
def test_errors(tool, files, tmp_path, capsys, content, options, says):
    ann, found = files(random_set(0)[0], [])
    Path(found).write_text(content)
    command = [found, str(tmp_path / 'out'), '--ann', ann, *options]
    assert run_main(lambda: tool.main(command)) == 1
    error = capsys.readouterr().err.split('\nerror: ')[-1]
    assert says in error and found in error and not (tmp_path / 'out').exists()


def test_files_that_are_not_there(tool, files, tmp_path, capsys):
    ann, found = files(*random_set(0))
    for command in (['absent.json', 'out', '--ann', ann], [found, 'out', '--ann', 'absent.json']):
        assert run_main(lambda: tool.main(command)) == 1
        assert 'absent.json: no such file' in capsys.readouterr().err.split('\nerror: ')[-1]
