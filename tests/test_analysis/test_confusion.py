"""mmdet/analysis/confusion.py against loops and against pycocotools."""

import contextlib
import csv
import io
import pickle

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet.analysis.confusion import (
    Detections,
    Objects,
    confusion,
    detections,
    draw,
    read_samples,
    shares,
    summary,
    suppress,
    to_csv,
)

CLASSES = 3


def random_boxes(generator, number):
    corner = torch.rand(number, 2, generator=generator, dtype=torch.float64) * 40
    return torch.cat([corner, corner + 8 + 20 * torch.rand(number, 2, generator=generator, dtype=torch.float64)], 1)


def random_image(seed):
    """Objects, of which some are crowds, and detections, of which some are near objects."""
    generator = torch.Generator().manual_seed(seed)

    def integers(number, high=CLASSES):
        return torch.randint(high, (number,), generator=generator)

    objects = Objects(random_boxes(generator, 8), integers(8), integers(8, 4) == 0)
    near = objects.bboxes[integers(14, 8)] + 2 * torch.randn(14, 4, generator=generator, dtype=torch.float64)
    found = Detections(
        torch.cat([near, random_boxes(generator, 6)]),
        integers(20),
        torch.rand(20, generator=generator, dtype=torch.float64),
    )
    return objects, found


def area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def common(a, b):
    return area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])


def by_loops(objects, found, score_thr, iou_thr):
    counts = [[0] * (CLASSES + 1) for _ in range(CLASSES + 1)]
    detections = sorted(zip(found.scores.tolist(), found.labels.tolist(), found.bboxes.tolist()), reverse=True)
    detections = [one[1:] for one in detections if one[0] >= score_thr]
    boxes, labels, crowd = (values.tolist() for values in objects)
    free = [i for i in range(len(boxes)) if not crowd[i]]
    left = detections
    for own_class in (True, False):
        unpaired = []
        for label, box in left:
            best, at = iou_thr, None
            for i in free:
                both = common(box, boxes[i])
                iou = both / (area(box) + area(boxes[i]) - both)
                if (labels[i] == label) == own_class and iou >= best:
                    best, at = iou, i
            if at is not None:
                counts[labels[at]][label] += 1
                free.remove(at)
            elif not any(
                crowd[i] and labels[i] == label and common(box, boxes[i]) / area(box) >= iou_thr
                for i in range(len(boxes))
            ):
                unpaired.append((label, box))
        left = unpaired
    for label, _ in left:
        counts[CLASSES][label] += 1
    for i in free:
        counts[labels[i]][CLASSES] += 1
    return counts


@pytest.mark.parametrize('score_thr, iou_thr', [(0.0, 0.5), (0.4, 0.3), (0.2, 0.75)])
def test_against_loops(score_thr, iou_thr):
    kinds = np.zeros((CLASSES + 1, CLASSES + 1))
    for seed in range(25):
        objects, found = random_image(seed)
        counts = confusion(objects, found, CLASSES, score_thr, iou_thr)
        assert counts.tolist() == by_loops(objects, found, score_thr, iou_thr)
        assert counts[:-1].sum() == (~objects.crowd).sum()
        kinds += counts
    assert (kinds[:3] > 0).all() and (kinds[3, :3] > 0).all() and kinds[3, 3] == 0  # every kind was there


def test_diagonal_and_columns_are_those_of_pycocotools():
    score_thr, iou_thr = 0.3, 0.5
    coco, results, counts = COCO(), [], 0
    coco.dataset = dict(images=[], annotations=[], categories=[dict(id=i) for i in range(CLASSES)])
    for seed in range(20):
        objects, found = random_image(seed)
        counts = counts + confusion(objects, found, CLASSES, score_thr, iou_thr)
        coco.dataset['images'].append(dict(id=seed))
        for box, label, crowd in zip(*(values.tolist() for values in objects)):
            size = [box[2] - box[0], box[3] - box[1]]
            coco.dataset['annotations'].append(
                dict(
                    id=len(coco.dataset['annotations']) + 1,
                    image_id=seed,
                    category_id=label,
                    iscrowd=int(crowd),
                    bbox=box[:2] + size,
                    area=size[0] * size[1],
                )
            )
        for box, label, score in zip(*(values.tolist() for values in found)):
            if score >= score_thr:
                results.append(
                    dict(
                        image_id=seed, category_id=label, score=score, bbox=box[:2] + [box[2] - box[0], box[3] - box[1]]
                    )
                )
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), 'bbox')
        evaluation.params.iouThrs = np.array([iou_thr])
        evaluation.evaluate()
    right, wrong = np.zeros(CLASSES), np.zeros(CLASSES)
    for image in evaluation.evalImgs:
        if image is not None and image['aRng'] == evaluation.params.areaRng[0]:
            counted, matched = ~image['dtIgnore'][0].astype(bool), image['dtMatches'][0] > 0
            right[image['category_id']] += (counted & matched).sum()
            wrong[image['category_id']] += (counted & ~matched).sum()
    assert np.diag(counts)[:CLASSES].tolist() == right.tolist()
    assert (counts.sum(0) - np.diag(counts))[:CLASSES].tolist() == wrong.tolist()


def image_of(boxes, labels, crowd=None, scores=None):
    boxes, labels = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels, dtype=torch.long)
    if scores is not None:
        return Detections(boxes, labels, torch.tensor(scores))
    return Objects(boxes, labels, torch.tensor(crowd or [False] * len(labels), dtype=torch.bool))


BOX, SHIFTED, FAR = [0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]


@pytest.mark.parametrize(
    'objects, found, expected',
    [
        # its own class has the object, also from a detection with a better score that overlaps more
        (image_of([BOX], [1]), image_of([BOX, SHIFTED], [0, 1], scores=[0.9, 0.5]), {(1, 1): 1, (3, 0): 1}),
        (image_of([BOX], [1]), image_of([BOX, BOX], [1, 1], scores=[0.9, 0.5]), {(1, 1): 1, (3, 1): 1}),  # once
        (image_of([BOX], [1]), image_of([BOX], [2], scores=[0.9]), {(1, 2): 1}),
        (image_of([BOX], [1]), image_of([BOX], [1], scores=[0.2]), {(1, 3): 1}),
        (image_of([[0, 0, 100, 100]], [1], [True]), image_of([BOX, FAR], [1, 1], scores=[0.9, 0.5]), {}),  # crowd
        (image_of([[0, 0, 100, 100], BOX], [1, 2], [True, False]), image_of([BOX], [1], scores=[0.9]), {(2, 3): 1}),
        (
            image_of([[0, 0, 100, 100]], [1], [True]),
            image_of([BOX], [2], scores=[0.9]),
            {(3, 2): 1},
        ),  # of another class
        (image_of([], []), image_of([], [], scores=[]), {}),
    ],
)
def test_cases(objects, found, expected):
    counts = confusion(objects, found, CLASSES, 0.3, 0.5)
    assert {tuple(at): counts[tuple(at)] for at in np.argwhere(counts).tolist()} == expected


def test_suppress_is_within_classes():
    found = image_of([BOX, SHIFTED, BOX], [0, 0, 1], scores=[0.5, 0.9, 0.4])
    assert sorted(suppress(found, 0.5).scores.tolist()) == pytest.approx([0.4, 0.9])


COUNTS = np.array([[6, 2, 0], [0, 0, 0], [1, 3, 0]])


def test_what_is_written_of_counts():
    assert shares(COUNTS).tolist() == [[75, 25, 0], [0, 0, 0], [25, 75, 0]]
    rows = list(csv.reader(io.StringIO(to_csv(COUNTS, ['a, b', 'c']))))
    assert rows[0][1:] == ['a, b', 'c', 'background'] and rows[1] == ['a, b', '6', '2', '0']
    assert summary(COUNTS, ['a', 'c'])[1:] == [
        ['a', '8', '75.0 %', '7', '85.7 %', 'c (2)'],
        ['c', '0', '-', '5', '0.0 %', '-'],
    ]


@pytest.mark.parametrize('number', [1, 3, 40])
def test_figure_fits_its_names(number):
    figure = draw(np.eye(number + 1, dtype=int), [f'name {i}' for i in range(number)], 'title', 'viridis')
    axes = figure.axes[0]
    figure.canvas.draw()
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        if number > 12 or labels[0].get_rotation() == 0:  # slanted names may share a bounding box
            assert not any(one.overlaps(other) for one, other in zip(boxes, boxes[1:]))
        assert all(box.x0 >= 0 and box.y1 <= figure.bbox.height for box in boxes)
    with pytest.raises(ValueError, match='--color-theme nice'):
        draw(COUNTS, ['a', 'b'], None, 'nice')


# -- reading predictions ----------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return print, ('run',)


@pytest.mark.parametrize(
    'content, says',
    [
        ([Evil()], 'asks for builtins.print'),
        ([dict(img_id=1)], "entry 0 has no 'img_id' and 'pred_instances'"),
        ([3], 'entry 0'),
        (b'text', 'not written by mmdet test --out'),
        (
            [
                dict(
                    img_id=7,
                    pred_instances=dict(bboxes=torch.zeros(1, 4), scores=torch.ones(1), labels=torch.tensor([5])),
                )
            ],
            'image 7 has the label 5, .* has 3 classes',
        ),
    ],
)
def test_bad_predictions(tmp_path, capsys, content, says):
    path = tmp_path / 'found.pkl'
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    with pytest.raises(ValueError, match=says) as error:
        read_samples(path, CLASSES)
    assert str(path) in str(error.value) and capsys.readouterr().out == ''
    with pytest.raises(FileNotFoundError, match='no such file'):
        read_samples(tmp_path / 'absent.pkl', CLASSES)


def test_predictions_of_tensors_and_arrays(tmp_path):
    for convert in (torch.as_tensor, np.asarray):
        found = dict(
            bboxes=convert([[0.0, 1, 2, 3]]),
            labels=convert([2]),
            scores=convert([0.5]),
            masks=[dict(size=[2, 2], counts=b'04')],
        )
        (tmp_path / 'found.pkl').write_bytes(pickle.dumps([dict(img_id=4, pred_instances=found)]))
        [(image, read)] = read_samples(tmp_path / 'found.pkl', CLASSES).items()
        assert image == 4 and [values.tolist() for values in detections(read)] == [[[0, 1, 2, 3]], [2], [0.5]]
