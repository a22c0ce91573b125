"""What keeps the precision of a detector down: wrong place, wrong class, background, objects not found.

    mmdet test CONFIG CHECKPOINT --cfg-options test_evaluator.outfile_prefix=results/my
    mmdet analyze errors results/my.bbox.json OUT_DIR --ann ANNOTATIONS.json
    mmdet analyze errors results/my.segm.json OUT_DIR --ann ANNOTATIONS.json --types segm

Writes, into OUT_DIR/TYPE, plots of precision over recall, of all classes and of each one, with one kind of error
forgiven after the other (COCO's analysis, after Hoiem et al., ECCV 2012), in panels for all, small, medium and large
objects; and the areas under the curves as errors.csv and errors.json. The curves:

"""

import contextlib
import csv
import io
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from terminaltables import AsciiTable

from mmdet.analysis.curves import save_figure
from mmdet.datasets.coco_file import LARGEST
from mmdet.datasets.coco_table import read_table
from mmdet.datasets.transforms.loading import rle_problem
from mmdet.evaluation.coco_truth import make_truth
from mmdet.io.atomic import write_atomic
from mmdet.options import make_parser

#: the curves, each with one kind of error less than the one before
KINDS = {
    'C75': 'as found, IoU 0.75',
    'C50': 'as found, IoU 0.5',
    'Loc': 'without errors of location (IoU 0.1)',
    'Sim': 'and without confusions within the supercategory',
    'Oth': 'and without confusions of any classes',
    'BG': 'and without detections of background',
    'FN': 'and all objects found',
}
COLOURS = ('#f7f7f7', '#bdbdbd', '#6baed6', '#fd8d3c', '#fdd0a2', '#9e9ac8', '#74c476')
AREAS = ('all', 'small', 'medium', 'large')
#: points of the curves, COCO's
RECALLS = np.linspace(0, 1, 101)


class Analysis(NamedTuple):
    """Precision of each class by kind of error."""

    precision: np.ndarray  # (7 KINDS, 101 RECALLS, classes, 4 AREAS), nan where there is no such object
    classes: list[str]  # names, in the order of their ids
    objects: np.ndarray  # (classes, 4) how many there are to find

    def mean(self) -> np.ndarray:
        """(7, 101, 4) over the classes that have objects; nan if none has."""
        there = ~np.isnan(self.precision)
        total = np.where(there, self.precision, 0).sum(2)
        return np.where(there.any(2), total / np.maximum(there.sum(2), 1), np.nan)


class _Evaluation(COCOeval):
    """COCO's evaluation in which objects of other classes, too, can take up a detection of a class.

    Args:
        group: the ids of the classes that count as one, by id; None for COCO's own evaluation.
    """

    def __init__(self, truth: COCO, found: COCO, kind: str, group: dict | None = None) -> None:
        super().__init__(truth, found, kind)
        self.group = group

    def _prepare(self) -> None:
        super()._prepare()
        if self.group is None:
            return
        by_image = defaultdict(list)
        for objects in self._gts.values():
            for one in objects:
                by_image[one['image_id']].append(one)
        for image, category in list(self._dts):
            mates = self.group[category]
            self._gts[image, category] = self._gts[image, category] + [
                dict(one, ignore=1)
                for one in by_image[image]
                if one['category_id'] in mates and one['category_id'] != category
            ]


def read_results(path: str | Path, kind: str, truth: COCO) -> COCO:
    """Detections of a JSON file in COCO's format of results, which CocoMetric's ``outfile_prefix`` writes.

    Args:
        path: the file.
        kind: 'bbox' or 'segm'.
        truth: the annotations that they are compared with.

    Raises:
        FileNotFoundError: no such file. ValueError: it is none of this kind, or of other images or categories.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'results {path}: no such file; it is written with mmdet test CONFIG CHECKPOINT '
            '--cfg-options test_evaluator.outfile_prefix=results/my'
        )
    try:
        items = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'results {path}: not JSON ({error})') from None
    needed = ('image_id', 'category_id', 'score', 'segmentation' if kind == 'segm' else 'bbox')
    if not isinstance(items, list):
        raise ValueError(
            f'results {path}: expected a list of detections with {", ".join(needed)}, found a {type(items).__name__}'
        )
    images, categories = set(truth.imgs), set(truth.cats)
    for i, item in enumerate(items):
        missing = [key for key in needed if not isinstance(item, dict) or key not in item]
        if missing:
            hint = '; masks are in the .segm.json beside it' if missing == ['segmentation'] else ''
            raise ValueError(f'results {path}: entry {i} has no {missing[0]!r}, which --types {kind} needs{hint}')
        for key, known in (('image_id', images), ('category_id', categories)):
            if not isinstance(item[key], (int, str)) or item[key] not in known:
                raise ValueError(
                    f'results {path}: entry {i}: {key} {item[key]!r} is not in the annotations; give the '
                    'annotation file of the test with --ann'
                )
        problem = _problem(item, kind, truth.imgs[item['image_id']])
        if problem:
            raise ValueError(f'results {path}: entry {i}: {problem}')
    # Of what else there is pycocotools takes one for another.
    items = [{key: item[key] for key in needed} for item in items]
    with contextlib.redirect_stdout(io.StringIO()):
        return truth.loadRes(items) if items else COCO()


def _problem(item: dict, kind: str, image: dict) -> str:
    """What pycocotools, which is C code, must not get to see of a detection, or ''."""
    score, box, mask = item['score'], item.get('bbox', [0] * 4), item.get('segmentation')
    if not _is_number(score):
        return f'score must be a number, got {str(score)[:60]}'
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        return f'bbox must be [x, y, width, height] in pixels, got {str(box)[:60]}'
    if kind != 'segm':
        return ''
    if not isinstance(mask, dict) or not isinstance(mask.get('counts'), str):
        return f"segmentation must be a compressed run-length encoding with 'size' and 'counts', got {str(mask)[:60]}"
    wrong = rle_problem(mask, (image['height'], image['width']))
    return f'segmentation {wrong}' if wrong else ''


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= LARGEST


def read_truth(path: str, kind: str) -> COCO:
    """COCO annotations as pycocotools wants them, for ``kind`` 'bbox' or 'segm'.

    Raises:
        FileNotFoundError, ValueError: as :func:`.read_coco`; no mask where masks are asked for.
    """
    boxes, masks, without_mask = make_truth(read_table(path))
    if kind == 'segm' and without_mask == len(boxes.anns):
        raise ValueError(
            f"ann_file {path}: annotations[0] has no 'segmentation', which --types segm needs, and no "
            'other has one; give --types bbox'
        )
    return masks if kind == 'segm' else boxes


def analyze(truth: COCO, found: COCO, kind: str) -> Analysis:
    """Precision over recall with one kind of error after the other forgiven.

    As COCO's page on evaluation defines it (section "Analysis Code", after Hoiem et al., "Diagnosing Error in Object
    Detectors", ECCV 2012): C75 and C50 are the usual curves at IoU 0.75 and 0.5, Loc that at 0.1. In Sim, at 0.1 too,
    a detection on an object of another class of the same supercategory does not count; in Oth, on one of any other
    class. In BG detections without any object do not count either, so precision is 1 as far as recall goes; in FN it is
    1 everywhere. The area under a curve is its AP. All detections of an image count, not its 100 best.

    Args:
        truth: of :func:`read_truth`. found: of :func:`read_results`.
        kind: 'bbox' or 'segm'.
    """
    ids = sorted(truth.cats)
    supers = {one: truth.cats[one].get('supercategory') or one for one in ids}
    groups = {
        'Sim': {one: {other for other in ids if supers[other] == supers[one]} for one in ids},
        'Oth': {one: set(ids) for one in ids},
    }
    most = max((len(found.getAnnIds(imgIds=[image])) for image in truth.imgs), default=0)

    def evaluate(thresholds: list, group: dict | None = None) -> tuple[COCOeval, np.ndarray]:
        evaluation = _Evaluation(truth, found, kind, group)
        evaluation.params.iouThrs = np.array(thresholds)
        evaluation.params.maxDets = [max(most, 1)]
        evaluation.params.recThrs = RECALLS
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation, evaluation.eval['precision'][..., 0]  # (T, R, K, A)

    plain, precision = evaluate([0.75, 0.5, 0.1])
    curves = list(precision)
    for group in groups.values():
        alone = all(len(mates) == 1 for mates in group.values())
        curves.append(precision[-1] if alone else evaluate([0.1], group)[1][0])
    there = curves[0] >= 0
    curves += [np.where(there, curves[-1] > 0, -1), np.where(there, 1, -1)]
    stacked = np.where(np.stack(curves) < 0, np.nan, np.stack(curves))
    return Analysis(stacked, [truth.cats[one]['name'] for one in ids], _count(plain))


def _count(evaluation: COCOeval) -> np.ndarray:
    """Objects to find, (classes, areas)."""
    params = evaluation.params
    areas = [tuple(area) for area in params.areaRng]
    counts = np.zeros((len(params.catIds), len(areas)), dtype=int)
    for one in evaluation.evalImgs:
        if one is not None:
            counts[params.catIds.index(one['category_id']), areas.index(tuple(one['aRng']))] += (
                ~np.asarray(one['gtIgnore'], dtype=bool)
            ).sum()
    return counts


def to_rows(analysis: Analysis) -> list[list]:
    """A table: class, area, number of objects, area under each curve (None without objects); all classes first."""
    rows = [['class', 'area', 'objects', *KINDS]]
    overall = analysis.mean()
    names = [('all classes', overall, analysis.objects.sum(0))]
    names += [(name, analysis.precision[:, :, i], analysis.objects[i]) for i, name in enumerate(analysis.classes)]
    for name, curves, objects in names:
        for a, area in enumerate(AREAS):
            values = curves[:, :, a].mean(1)
            rows.append(
                [
                    name,
                    area,
                    int(objects[a]),
                    *(None if np.isnan(value) else round(float(value), 6) for value in values),
                ]
            )
    return rows


def draw(name: str, curves: np.ndarray, objects: np.ndarray) -> Figure:
    """The curves of a class, a panel for each area.

    Args:
        name: for the title.
        curves: (7, 101, 4) precision. objects: (4,) how many.
    """
    figure, panels = plt.subplots(1, len(AREAS), figsize=(16, 4.3))
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.12, top=0.85, wspace=0.15)  # constrained layout is slow
    for a, (area, axes) in enumerate(zip(AREAS, panels)):
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel='recall', title=f'{area} objects: {objects[a]}')
        if np.isnan(curves[0, 0, a]):
            axes.text(0.5, 0.5, 'no objects of this size', ha='center', color='#666666')
            axes.set(xticks=[], yticks=[])
            continue
        below = np.zeros(len(RECALLS))
        for colour, values in zip(COLOURS, curves[:, :, a]):
            axes.fill_between(RECALLS, below, values, color=colour, linewidth=0)
            axes.plot(RECALLS, values, color='#303030', linewidth=0.7)
            below = np.maximum(below, values)
        axes.grid(True, alpha=0.25)
        handles = [
            Patch(facecolor=colour, edgecolor='#707070', linewidth=0.5, label=f'{values.mean():.3f}  {kind}')
            for kind, colour, values in zip(KINDS, COLOURS, curves[:, :, a])
        ]
        axes.legend(
            handles=handles[::-1],
            loc='lower left',
            fontsize=8,
            framealpha=0.85,
            title='area under curve',
            title_fontsize=8,
        )
    panels[0].set_ylabel('precision')
    figure.suptitle(name)
    return figure


# -- the command --------------------------------------------------------------------------------------------------


def parse_args(argv=None):
    kinds = '\n'.join(f'    {kind:5}{words}' for kind, words in KINDS.items())
    parser = make_parser(__doc__ + kinds)
    parser.add_argument('result', help="detections in COCO's format of results")
    parser.add_argument('out_dir', help='where the plots and tables are written')
    parser.add_argument(
        '--ann',
        default='data/coco/annotations/instances_val2017.json',
        help='annotations (default: data/coco/annotations/instances_val2017.json)',
    )
    parser.add_argument(
        '--types',
        nargs='+',
        choices=['bbox', 'segm'],
        default=['bbox'],
        help='compare boxes, masks or both (default: bbox)',
    )
    return parser.parse_args(argv)


def write(analysis, kind, out):
    rows = to_rows(analysis)
    file = io.StringIO()
    csv.writer(file, lineterminator='\n').writerows(['' if value is None else value for value in row] for row in rows)
    write_atomic(file.getvalue().encode(), out / 'errors.csv')
    classes = {}
    for row in rows[1:]:
        classes.setdefault(row[0], {})[row[1]] = dict(zip(rows[0][2:], row[2:]))
    write_atomic(json.dumps(classes, indent=1).encode(), out / 'errors.json')
    figures = [('all classes', analysis.mean(), analysis.objects.sum(0), f'{kind}-allclass')]
    figures += [
        (
            name,
            analysis.precision[:, :, i],
            analysis.objects[i],
            f'{kind}-{i + 1:02d}-{re.sub(r"[^A-Za-z0-9.-]", "_", name)}',
        )
        for i, name in enumerate(analysis.classes)
        if analysis.objects[i, 0]
    ]
    for name, curves, objects, stem in figures:
        figure = draw(f'{name}, {kind}', curves, objects)
        save_figure(figure, out / f'{stem}.png')
        plt.close(figure)
    shown = [row for row in rows if row[1] in ('area', AREAS[0]) or row[0] == 'all classes']
    print(f'\n{kind}: area under the curve of precision over recall')
    print(
        AsciiTable(
            [
                ['-' if value is None else value if isinstance(value, (str, int)) else f'{value:.3f}' for value in row]
                for row in shown
                if row[2]
            ]
        ).table
    )
    print(f'written: {out}/errors.csv, errors.json, {len(figures)} plots')


def main(argv=None):
    args = parse_args(argv)
    matplotlib.use('Agg')
    analyses = {}
    for kind in dict.fromkeys(args.types):
        try:
            truth = read_truth(args.ann, kind)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'{error}; name another with --ann') from None
        analyses[kind] = analyze(truth, read_results(args.result, kind, truth), kind)
    for kind, analysis in analyses.items():
        write(analysis, kind, Path(args.out_dir) / kind)
