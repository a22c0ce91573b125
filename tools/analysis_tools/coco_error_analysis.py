"""What keeps the precision of a detector down: wrong place, wrong class, background, objects not found.

    python tools/test.py CONFIG CHECKPOINT --cfg-options test_evaluator.outfile_prefix=results/my
    python tools/analysis_tools/coco_error_analysis.py results/my.bbox.json OUT_DIR --ann ANNOTATIONS.json
    python tools/analysis_tools/coco_error_analysis.py results/my.segm.json OUT_DIR --ann ANNOTATIONS.json --types segm

Writes, into OUT_DIR/TYPE, plots of precision over recall, of all classes and of each one, with one kind of error
forgiven after the other (COCO's analysis, after Hoiem et al., ECCV 2012), in panels for all, small, medium and large
objects; and the areas under the curves as errors.csv and errors.json. The curves:

"""

import argparse
import csv
import io
import json
import re
import sys
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from terminaltables import AsciiTable

from mmdet.analysis.curves import save_figure
from mmdet.analysis.errors import AREAS, KINDS, analyze, draw, read_results, read_truth, to_rows
from mmdet.io.atomic import write_atomic
from mmdet.run.ending import run_main


def parse_args(argv=None):
    kinds = '\n'.join(f'    {kind:5}{words}' for kind, words in KINDS.items())
    parser = argparse.ArgumentParser(description=__doc__ + kinds, formatter_class=argparse.RawDescriptionHelpFormatter)
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


if __name__ == '__main__':
    sys.exit(run_main(main))
