"""The confusion matrix of a detector: which classes it takes for which, and for background.

    python tools/test.py CONFIG CHECKPOINT --out PREDICTIONS.pkl
    python tools/analysis_tools/confusion_matrix.py CONFIG PREDICTIONS.pkl SAVE_DIR

Writes SAVE_DIR/confusion_matrix.png and, with the counts, confusion_matrix.csv. Rows are true classes, columns
predicted ones. Detections are paired with objects one to one by boxes: first with those of their own class, as in
COCO's evaluation, then with what is left. Objects without a detection are in the last column; detections without an
object in the last row, unless they are in a crowd region of their class.
"""

import argparse
import sys
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from mmengine.config import DictAction
from mmengine.registry import init_default_scope
from terminaltables import AsciiTable

from mmdet.analysis.confusion import Objects, confusion, draw, read_predictions, summary, suppress, to_csv
from mmdet.analysis.curves import save_figure
from mmdet.config import check_config, load_config
from mmdet.io.atomic import write_atomic
from mmdet.registry import DATASETS
from mmdet.run.ending import run_main


def share(text):
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text}: must be a number from 0 to 1')
    return value


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file; the objects are those of its test_dataloader')
    parser.add_argument('prediction_path', help='what tools/test.py --out has written')
    parser.add_argument('save_dir', help='where the matrix is written')
    parser.add_argument('--show', action='store_true', help='show the plot in a window as well')
    parser.add_argument('--color-theme', default='Blues', help="a colour map of matplotlib's (default: Blues)")
    parser.add_argument('--score-thr', type=share, default=0.3, help='detections below do not count (default: 0.3)')
    parser.add_argument('--tp-iou-thr', type=share, default=0.5, help='IoU of a pair (default: 0.5)')
    parser.add_argument(
        '--nms-iou-thr', type=share, help='suppress detections above this IoU with a better one of their class first'
    )
    parser.add_argument('--title', help="the plot's title (default: the thresholds)")
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='settings that override the config'
    )
    return parser.parse_args(argv)


def read_objects(cfg):
    """The classes of the config's test set, and the objects of each image by its id."""
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, pipeline=[]))
    images = {}
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        instances = info['instances']
        images[info['img_id']] = Objects(
            torch.tensor([instance['bbox'] for instance in instances], dtype=torch.float64).reshape(-1, 4),
            torch.tensor([instance['bbox_label'] for instance in instances], dtype=torch.long),
            torch.tensor([instance['ignore_flag'] for instance in instances], dtype=torch.bool),
        )
    return list(dataset.metainfo['classes']), images


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg, ('test',))
    classes, objects = read_objects(cfg)
    found = read_predictions(args.prediction_path, len(classes))
    if set(found) != set(objects):
        odd = sorted(set(found) ^ set(objects), key=str)
        raise ValueError(
            f"predictions {args.prediction_path}: of {len(found)} images, but the config's test set has "
            f'{len(objects)}; image {odd[0]!r} is in {"the predictions" if odd[0] in found else "the set"} only. Give '
            'the config of the test'
        )
    counts = 0
    for image, detections in found.items():
        if args.nms_iou_thr is not None:
            detections = suppress(detections, args.nms_iou_thr)
        counts = counts + confusion(objects[image], detections, len(classes), args.score_thr, args.tp_iou_thr)
    title = args.title or f'{len(found)} images; score at least {args.score_thr:g}, IoU at least {args.tp_iou_thr:g}'
    if not args.show:
        plt.switch_backend('Agg')
    figure = draw(counts, classes, title, args.color_theme)
    out = Path(args.save_dir)
    save_figure(figure, out / 'confusion_matrix.png')
    write_atomic(to_csv(counts, classes).encode(), out / 'confusion_matrix.csv')
    print(AsciiTable(summary(counts, classes)).table)
    print(f'background taken for an object: {counts[-1].sum()}; objects taken for background: {counts[:, -1].sum()}')
    print(f'written: {out}/confusion_matrix.png, confusion_matrix.csv')
    if args.show:
        plt.show()
    plt.close(figure)


if __name__ == '__main__':
    sys.exit(run_main(main))
