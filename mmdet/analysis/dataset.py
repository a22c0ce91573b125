"""Look at a data set before anything is trained on it: every annotation and every image, once.

    mmdet data check data/cells/annotations/train.json data/cells/train
    mmdet data check --config CONFIG

Lists what is wrong by kind, with places in the file and what comes of it; counts classes, sizes and objects an image;
says how alike the images are, and from that which norm to take with a small batch. With a config its training and
validation data are looked at, by its classes, and whether they share pictures.

Exit code: 0 nothing is wrong, 1 something is odd or left out, 2 a training would be refused.
"""

import base64
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import jinja2
import numpy as np
from mmengine.config import Config, DictAction

from mmdet.config import check_config, load_config
from mmdet.config.check import walk
from mmdet.datasets.coco import COCO_CLASSES
from mmdet.io.atomic import write_atomic
from mmdet.options import make_parser

from .mending import mend
from .survey import Survey, recommend, survey

SIZES = ('small', 'medium', 'large')  # below 32^2 and 96^2 pixels, as COCO has them


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument('ann', nargs='?', help="annotations in COCO's format")
    parser.add_argument('img_root', nargs='?', help='folder that file_name is relative to (default: that of ann)')
    parser.add_argument('--config', help='config file, or the name of one: look at its training and validation data')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override the config')
    parser.add_argument('--fix', metavar='OUT.json', help='write annotations without what is wrong')
    parser.add_argument('--html', metavar='OUT.html', help='write a page with histograms and the worst images')
    args = parser.parse_args(argv)
    if (args.ann is None) == (args.config is None):
        parser.error('give annotations and a folder of images, or --config')
    if args.fix and args.config:
        parser.error('--fix is for one file: give it and its folder of images')
    return args


class Part(NamedTuple):
    """A data set that is to be looked at."""

    name: str
    path: str
    folder: str
    classes: Sequence[str] | None
    masks: bool | None


def parts_of(cfg: Config) -> Iterator[Part]:
    """The training and validation data of a config."""
    for name in ('train', 'val'):
        loader = cfg.get(f'{name}_dataloader')
        if loader is None:
            continue
        for _, node in walk(loader.dataset.to_dict()):
            if 'ann_file' not in node:
                continue
            root = node.get('data_root') or ''
            prefix = (node.get('data_prefix') or {}).get('img') or ''
            classes = (node.get('metainfo') or {}).get('classes') or COCO_CLASSES
            masks = 'mask_head' in (cfg.model.get('roi_head') or {})
            yield Part(name, os.path.join(root, node['ann_file']), os.path.join(root, prefix), classes, masks)


def report(found: Survey) -> str:
    """A survey as text."""
    text = [f'{found.path}: {"" if found.findings else "nothing is wrong"}']
    for one in sorted(found.findings, key=lambda one: -one.severity):
        mark = ('', 'odd', 'refused')[one.severity]
        text.append(f'{mark:7} {one.number:6} {one.kind}: {one.outcome}')
        text.append(f'{"":15}{", ".join(one.examples[:3])}{", ..." if one.number > 3 else ""}')
    if found.table is not None:
        text += [f'{key}: {value}' for key, value in summary(found).items()]
    return '\n'.join(text)


def summary(found: Survey) -> dict[str, str]:
    """What is in a data set, in a few lines."""
    table = found.table
    arrays = table.arrays
    total, images = len(arrays['category']), len(table)
    per_image = np.diff(arrays['order_end'], prepend=0)
    lines = dict(images=f'{images}', objects=f'{total}, {int(arrays["crowd"].sum())} of them crowds')
    if total:
        counts = Counter(arrays['category'].tolist())
        lines['classes'] = ', '.join(f'{name} {counts[i]}' for i, (_, name) in enumerate(table.categories))
        shares = np.bincount(np.digitize(arrays['area'], (32**2, 96**2)), minlength=3) / total
        lines['areas'] = ', '.join(f'{name} {share:.0%}' for name, share in zip(SIZES, shares))
        lines['masks'] = f'{table.masked.mean():.0%} of the objects have one'
    if images:
        low, middle, high = np.percentile(per_image, (0, 50, 100))
        lines['objects an image'] = f'{low:.0f} to {high:.0f}, median {middle:.0f}'
        sizes = Counter(zip(arrays['width'].tolist(), arrays['height'].tolist())).most_common(3)
        lines['sizes'] = ', '.join(f'{w} x {h} ({count})' for (w, h), count in sizes)
    if found.between:
        shares = ', '.join(f'{share:.0%}' for share in found.between)
        lines['variance between images (R, G, B)'] = f'{shares}: {recommend(found.between)}'
    return lines


def shared(surveys: Sequence[tuple[str, Survey]]) -> list[str]:
    """Pictures of the training data that are in the validation data, too."""
    names: dict[str, dict[bytes, str]] = dict(train={}, val={})
    for part, found in surveys:
        names[part].update((one.digest, file) for one, file in zip(found.pictures, found.files) if one.digest)
    return [f'{file} = {names["val"][key]}' for key, file in names['train'].items() if key in names['val']]


def main(argv=None):
    args = parse_args(argv)
    if args.config:
        cfg = load_config(args.config, args.cfg_options)
        check_config(cfg, ('train', 'val') if cfg.get('val_dataloader') else ('train',))
        parts = list(parts_of(cfg))
    else:
        parts = [Part('train', args.ann, args.img_root or os.path.dirname(args.ann), None, None)]
    surveys = []
    for part in parts:
        found = survey(part.path, part.folder, part.classes, part.masks)
        surveys.append((part.name, found))
        if part == parts[-1] and len(parts) > 1:
            found.add('pictures of the training data in the validation data', 'AP is too high', shared(surveys))
        print(report(found))
    if args.html:
        write_atomic(page([found for _, found in surveys]).encode(), args.html)
        print(f'page: {args.html}')
    if args.fix:
        print(mend(surveys[0][1], parts[0].folder, args.fix))
    return max(found.severity for _, found in surveys)


# -- the page ------------------------------------------------------------------------------------------------------

WORST = 12


def page(surveys: Sequence[Survey]) -> str:
    """An HTML page of its own, with histograms and the images with the most faults."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('mmdet.analysis'), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template('dataset.html').render(
        sets=[
            dict(found=one, summary=summary(one) if one.table else {}, bars=_bars(one), worst=list(_worst(one)))
            for one in surveys
        ]
    )


def _bars(found: Survey) -> dict[str, list[tuple[str, int, float]]]:
    """Histograms: label, number and share of the highest."""
    if found.table is None or not len(found.table):
        return {}
    arrays, names = found.table.arrays, [name for _, name in found.table.categories]
    counts = {'objects by class': [(name, int((arrays['category'] == i).sum())) for i, name in enumerate(names)]}
    for title, values in (
        ('objects an image', np.diff(arrays['order_end'], prepend=0)),
        ('square root of the area, pixels', np.sqrt(np.maximum(arrays['area'], 0))),
        ('longer side of the images, pixels', np.maximum(arrays['height'], arrays['width'])),
    ):
        if len(values):
            edges = np.unique(np.round(np.linspace(0, max(values.max(), 1), 11)).astype(int))
            numbers = np.histogram(values, edges)[0]
            counts[title] = [(f'{a} to {b}', int(number)) for a, b, number in zip(edges, edges[1:], numbers)]
    return {
        title: [(label, number, number / max(1, *(one for _, one in rows))) for label, number in rows]
        for title, rows in counts.items()
        if rows
    }


def _worst(found: Survey) -> Iterator[tuple[str, str, int]]:
    """File, picture as a data URI and number of odd objects of the images with the most."""
    if found.table is None or not len(found.table):
        return
    arrays, owner = found.table.arrays, found.table.owner
    number = np.bincount(owner[found.odd & (owner >= 0)], minlength=len(found.table))
    for i in np.argsort(-number, kind='stable')[:WORST]:
        image = cv2.imread(found.files[i]) if number[i] else None
        if image is None:
            continue
        scale = 320 / max(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for k in found.table.part('order', i):
            x, y, w, h = arrays['box'][k] * scale
            colour = (0, 0, 230) if found.odd[k] else (0, 160, 0)
            corners = np.clip([x, y, x + w, y + h], -1e6, 1e6).round().astype(int).tolist()
            cv2.rectangle(image, corners[:2], corners[2:], colour, 2)
        data = base64.b64encode(cv2.imencode('.jpg', image)[1]).decode()
        yield found.files[i], f'data:image/jpeg;base64,{data}', int(number[i])
