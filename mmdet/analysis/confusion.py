"""The confusion matrix of a detector: which classes it takes for which, and for background.

    mmdet test CONFIG CHECKPOINT --out PREDICTIONS.pkl
    mmdet analyze confusion CONFIG PREDICTIONS.pkl SAVE_DIR

Writes SAVE_DIR/confusion_matrix.png and, with the counts, confusion_matrix.csv. Rows are true classes, columns
predicted ones. Detections are paired with objects one to one by boxes: first with those of their own class, as in
COCO's evaluation, then with what is left. Objects without a detection are in the last column; detections without an
object in the last row, unless they are in a crowd region of their class.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from mmengine.registry import init_default_scope
from terminaltables import AsciiTable
from torch import Tensor
from torchvision.ops import batched_nms

from mmdet.analysis.curves import save_figure
from mmdet.config import check_config, load_config
from mmdet.io.atomic import write_atomic
from mmdet.io.unpickling import read_pickle
from mmdet.options import add_config, make_parser, number
from mmdet.registry import DATASETS
from mmdet.structures.bbox import bbox_overlaps

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Objects(NamedTuple):
    """Holds the annotated objects of one image."""

    bboxes: Tensor  # (G, 4), x1 y1 x2 y2 in pixels
    labels: Tensor  # (G,)
    crowd: Tensor  # (G,) bool: a region of many objects, of which none must be found


class Detections(NamedTuple):
    """Holds the detections of one image."""

    bboxes: Tensor  # (D, 4)
    labels: Tensor  # (D,)
    scores: Tensor  # (D,)


def confusion(objects: Objects, found: Detections, num_classes: int, score_thr: float, iou_thr: float) -> np.ndarray:
    """Count the pairs of true and predicted class in one image.

    Detections with a score of ``score_thr`` or more are paired with objects one to one, at an IoU of ``iou_thr`` or
    more, in descending score. First each takes the free object of its own class with the largest IoU; of the others
    those do not count of which a part of ``iou_thr`` or more is in one crowd region of their class: COCO's matching at
    one threshold (Lin et al., ECCV 2014, as in pycocotools). Then each that is left takes the free object of another
    class: the confusions of Hoiem et al. (ECCV 2012). Objects without a detection were taken for background,
    detections without an object are background taken for an object. Boxes are compared, not masks.

    Returns:
        (num_classes + 1, num_classes + 1) counts; the row is the true class, the column the predicted one, the last of
        each is background. The sum of a class's row is the number of its objects.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    order = torch.argsort(found.scores, descending=True, stable=True)
    order = order[found.scores[order] >= score_thr]
    bboxes, labels = found.bboxes[order].double(), found.labels[order].numpy()
    real = ~objects.crowd
    truth = objects.labels[real].numpy()
    overlaps = bbox_overlaps(bboxes, objects.bboxes[real].double(), eps=1e-12).numpy()
    same = labels[:, None] == truth[None]
    inside = bbox_overlaps(bboxes, objects.bboxes[objects.crowd].double(), mode='iof', eps=1e-12).numpy()
    in_crowd = ((inside >= iou_thr) & (labels[:, None] == objects.labels[objects.crowd].numpy()[None])).any(1)
    taken = np.zeros(len(truth), dtype=bool)
    partner = np.full(len(labels), -1)
    for allowed in (same, ~same & ~in_crowd[:, None]):
        for i in np.flatnonzero((partner < 0) & (allowed & (overlaps >= iou_thr)).any(1)):
            free = np.where(allowed[i] & ~taken, overlaps[i], -1)
            best = free.argmax()
            if free[best] >= iou_thr:
                partner[i], taken[best] = best, True
    matched = partner >= 0
    np.add.at(counts, (truth[partner[matched]], labels[matched]), 1)
    np.add.at(counts, (num_classes, labels[~matched & ~in_crowd]), 1)
    np.add.at(counts, (truth[~taken], num_classes), 1)
    return counts


def suppress(found: Detections, iou_thr: float) -> Detections:
    """Non-maximum suppression within each class."""
    keep = batched_nms(found.bboxes, found.scores, found.labels, iou_thr)
    return Detections(*(values[keep] for values in found))


# -- what mmdet test --out writes ----------------------------------------------------------------------------------


def read_samples(path: str | Path, num_classes: int) -> dict[int | str, dict]:
    """What was found in each image, by its id, from a .pkl file of ``mmdet test --out``, read without running code.

    Returns:
        Dicts as DumpDetResults writes them, in ``pred_instances`` at least the tensors bboxes (K, 4), labels (K,) of
        int64 and scores (K,).

    Raises:
        FileNotFoundError: no such file. ValueError: it is none of this kind, has no image, or holds labels of other
            classes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'predictions {path}: no such file; it is written by mmdet test CONFIG CHECKPOINT --out {path}'
        )
    try:
        entries = read_pickle(path)
    except Exception as error:  # a cut or foreign file can raise anything
        raise ValueError(f'predictions {path}: not written by mmdet test --out ({error})') from None
    samples = {}
    for i, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        try:
            kept = entry['pred_instances']
            found = Detections(*(torch.as_tensor(kept[key]).detach() for key in Detections._fields))
            number = len(found.labels)
            if [list(values.shape) for values in found] != [[number, 4], [number], [number]]:
                raise TypeError(f'shapes {[tuple(values.shape) for values in found]}')
            found = found._replace(labels=found.labels.long() if found.labels.dtype in INTEGERS else None)
            if found.labels is None or not all(found[k].is_floating_point() for k in (0, 2)):
                raise TypeError('labels must be of integers, bboxes and scores of floating point')
            if not all(found[k].isfinite().all() for k in (0, 2)):
                raise TypeError('bboxes or scores that are no finite numbers')
            samples[entry['img_id']] = dict(entry, pred_instances=dict(kept, **found._asdict()))
        except (KeyError, TypeError, IndexError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"predictions {path}: entry {i} has no 'img_id' and 'pred_instances' with bboxes, labels "
                f'and scores ({error!r}); expected what mmdet test --out writes'
            ) from None
        if len(found.labels) and not 0 <= found.labels.min() <= found.labels.max() < num_classes:
            raise ValueError(
                f'predictions {path}: image {entry["img_id"]} has the label {int(found.labels.max())}, '
                f"but the config's data set has {num_classes} classes; give the config of the test"
            )
    if not samples:
        raise ValueError(f'predictions {path}: an empty list; it has the results of no image')
    return samples


def detections(sample: dict) -> Detections:
    """Boxes, labels and scores of one of :func:`read_samples`."""
    return Detections(*(sample['pred_instances'][key] for key in Detections._fields))


def check_images(path: str | Path, samples: dict[int | str, dict], infos: dict[int | str, dict]) -> None:
    """Raise ValueError where predictions are not of the images of a data set, with the ids as keys of both."""
    if set(samples) != set(infos):
        odd = sorted(set(samples) ^ set(infos), key=str)
        raise ValueError(
            f"predictions {path}: of {len(samples)} images, but the config's test set has "
            f'{len(infos)}; image {odd[0]!r} is in {"the predictions" if odd[0] in samples else "the set"} only; give '
            'the config of the test'
        )
    for key, sample in samples.items():
        info = infos[key]
        shape, own_shape = sample.get('ori_shape'), (info.get('height'), info.get('width'))
        # the folder may have moved
        name, own_name = (Path(str(one.get('img_path') or '')).name for one in (sample, info))
        if name and own_name and name != own_name:
            said = f'is {name}', own_name
        elif isinstance(shape, (list, tuple)) and all(own_shape) and tuple(shape) != own_shape:
            said = f'has the size {tuple(shape)}', own_shape
        else:
            continue
        raise ValueError(
            f"predictions {path}: image {key!r} {said[0]}, but in the config's test set {said[1]}; give the config of "
            'the test'
        )


# -- the matrix as a file ---------------------------------------------------------------------------------------------


def shares(counts: np.ndarray) -> np.ndarray:
    """Each row in percent of its sum; zero where that is zero."""
    totals = counts.sum(1, keepdims=True)
    return 100 * counts / np.maximum(totals, 1)


def to_csv(counts: np.ndarray, classes: Sequence[str]) -> str:
    """The counts with the names of rows and columns."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    names = [*classes, 'background']
    writer.writerow(['true \\ predicted', *names])
    writer.writerows([name, *row] for name, row in zip(names, counts.tolist()))
    return file.getvalue()


def summary(counts: np.ndarray, classes: Sequence[str]) -> list[list[str]]:
    """Rows of a table: class, objects, recall, detections, precision, what the class is most often taken for."""
    rows = [['class', 'objects', 'found', 'detections', 'right', 'most often taken for']]
    for i, name in enumerate(classes):
        objects, detections, right = counts[i].sum(), counts[:, i].sum(), counts[i, i]
        others = counts[i, :-1].copy()
        others[i] = 0
        other = f'{classes[others.argmax()]} ({others.max()})' if others.any() else '-'
        rows.append(
            [
                name,
                str(objects),
                f'{100 * right / objects:.1f} %' if objects else '-',
                str(detections),
                f'{100 * right / detections:.1f} %' if detections else '-',
                other,
            ]
        )
    return rows


def draw(counts: np.ndarray, classes: Sequence[str], title: str | None, colours: str):
    """A figure of the matrix: colour and number are the share of the row, small below it the count.

    Raises:
        ValueError: matplotlib has no such colours.
    """
    import matplotlib
    from matplotlib import pyplot as plt

    if colours not in matplotlib.colormaps:
        raise ValueError(
            f'--color-theme {colours}: matplotlib has no such colour map; there are, for instance, Blues, '
            'Greys, plasma, viridis'
        )
    names, number = [*classes, 'background'], len(classes) + 1
    percent = shares(counts)
    cell = 0.95 if number <= 12 else 0.55 if number <= 30 else 0.3
    side = max(2.2, cell * number)
    font = 11 if number <= 12 else 8 if number <= 30 else 7
    figure, axes = plt.subplots(figsize=(side + 3, side + 2.2), layout='constrained')
    image = axes.imshow(percent, cmap=colours, vmin=0, vmax=100)
    bar = figure.colorbar(image, ax=axes, shrink=0.8 if number <= 12 else 0.4, pad=0.02, aspect=25)
    bar.set_label('% of the row')
    axes.set_xticks(
        range(number),
        names,
        rotation=45 if number <= 12 else 90,
        ha='left' if number <= 12 else 'center',
        rotation_mode='anchor' if number <= 12 else 'default',
    )
    axes.set_yticks(range(number), names)
    axes.tick_params(
        length=0,
        labelsize=max(font, 8),
        top=True,
        labeltop=True,
        bottom=False,
        labelbottom=number > 30,
        right=False,
        labelright=number > 30,
    )
    axes.set_xticks(np.arange(number + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(number + 1) - 0.5, minor=True)
    axes.grid(which='minor', color='#9a9a9a', linewidth=0.4)
    axes.tick_params(which='minor', length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel('predicted', fontsize=12)
    axes.xaxis.set_label_position('top')
    axes.set_ylabel('true', fontsize=12)
    for row, column in np.argwhere(counts):
        share = percent[row, column]
        red, green, blue, _ = image.cmap(share / 100)
        ink = 'black' if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else 'white'
        text = '<1' if share < 0.5 else '>99' if 99.5 <= share < 100 else f'{share:.0f}'
        if number <= 30:
            axes.text(column, row - 0.08, f'{text} %', ha='center', va='center', color=ink, fontsize=font)
            axes.text(
                column, row + 0.2, str(counts[row, column]), ha='center', va='center', color=ink, fontsize=0.75 * font
            )
        elif share >= 1:
            axes.text(column, row, text, ha='center', va='center', color=ink, fontsize=font)
    # background is not an object that could rightly be found as nothing
    axes.add_patch(
        plt.Rectangle(
            (number - 1.5, number - 1.5), 1, 1, facecolor='#d8d8d8', edgecolor='#9a9a9a', hatch='//', linewidth=0.4
        )
    )
    if title:
        figure.suptitle(title, fontsize=13)
    return figure


# -- the command --------------------------------------------------------------------------------------------------


def parse_args(argv=None):
    parser = make_parser(__doc__)
    add_config(parser, 'the objects are those of its test_dataloader')
    parser.add_argument('prediction_path', help='what mmdet test --out has written')
    parser.add_argument('save_dir', help='where the matrix is written')
    parser.add_argument('--show', action='store_true', help='show the plot in a window as well')
    parser.add_argument('--color-theme', default='Blues', help="a colour map of matplotlib's (default: Blues)")
    parser.add_argument(
        '--score-thr', type=number(0, 1), default=0.3, help='detections below do not count (default: 0.3)'
    )
    parser.add_argument('--tp-iou-thr', type=number(0, 1), default=0.5, help='IoU of a pair (default: 0.5)')
    parser.add_argument(
        '--nms-iou-thr',
        type=number(0, 1),
        help='suppress detections above this IoU with a better one of their class first',
    )
    parser.add_argument('--title', help="the plot's title (default: the thresholds)")
    return parser.parse_args(argv)


def build_test_set(cfg):
    """The data set of the config's test."""
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    return DATASETS.build(cfg.test_dataloader.dataset)


def read_objects(dataset):
    """Of each image, by its id: what the data set knows of it, without instances but with its ``position``; and its
    objects."""
    infos, objects = {}, {}
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        key, instances = info['img_id'], info.pop('instances', [])
        infos[key] = dict(info, position=i)
        objects[key] = Objects(
            torch.tensor([instance['bbox'] for instance in instances], dtype=torch.float64).reshape(-1, 4),
            torch.tensor([instance['bbox_label'] for instance in instances], dtype=torch.long),
            torch.tensor([instance['ignore_flag'] for instance in instances], dtype=torch.bool),
        )
    return infos, objects


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg, ('test',))
    dataset = build_test_set(cfg)
    classes = list(dataset.metainfo['classes'])
    infos, objects = read_objects(dataset)
    samples = read_samples(args.prediction_path, len(classes))
    check_images(args.prediction_path, samples, infos)
    counts = 0
    for image, sample in samples.items():
        found = detections(sample)
        if args.nms_iou_thr is not None:
            found = suppress(found, args.nms_iou_thr)
        counts = counts + confusion(objects[image], found, len(classes), args.score_thr, args.tp_iou_thr)
    title = args.title or f'{len(samples)} images; score at least {args.score_thr:g}, IoU at least {args.tp_iou_thr:g}'
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
