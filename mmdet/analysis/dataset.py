"""Look at a data set before anything is trained on it: every annotation and every image, once.

    mmdet data check data/cells/annotations/train.json data/cells/train
    mmdet data check --config CONFIG

Lists what is wrong by kind, with places in the file and what comes of it; counts classes, sizes and objects an image;
says how alike the images are, and from that which norm to take with a small batch. With a config its training and
validation data are looked at, by its classes, and whether they share pictures.

Exit code: 0 nothing is wrong, 1 something is odd or left out, 2 a training would be refused.
"""

import base64
import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np
import torch
from mmengine.config import Config, DictAction

from mmdet.analysis.image_statistics import between_share
from mmdet.config import check_config, load_config
from mmdet.config.check import walk
from mmdet.config.options import make_parser
from mmdet.datasets.coco import BAD_BOX, COCO_CLASSES, NO_CATEGORY, NO_IMAGE, NO_MASK, unlearned
from mmdet.datasets.coco_file import check_ann_file, check_coco, faults, number, place
from mmdet.datasets.coco_table import CocoTable, make_table
from mmdet.datasets.files import ON_ITS_SIDE
from mmdet.datasets.transforms.loading import cut_off, image_size, size_problem
from mmdet.io.atomic import write_atomic
from mmdet.run.progress import track

#: what comes of each kind
OUTCOMES = {
    NO_IMAGE: 'left out, in training and in evaluation',
    NO_CATEGORY: 'left out, in training and in evaluation',
    BAD_BOX: 'left out in training, counted as they are in evaluation',
    NO_MASK: 'regions to ignore where masks are trained',
}
REFUSED = 'a training refuses the file'
MOST = 5  # examples of a kind
SIZES = ('small', 'medium', 'large')  # below 32^2 and 96^2 pixels, as COCO has them


class Finding(NamedTuple):
    """A kind of fault."""

    kind: str
    outcome: str
    number: int
    examples: list[str]
    #: 2 where a training is refused, 1 where something is odd or left out, 0 of what is only worth knowing
    severity: int


class Picture(NamedTuple):
    """What is read of an image file."""

    problem: str
    digest: bytes = b''
    mean: Sequence[float] = ()
    variance: Sequence[float] = ()


@dataclass
class Survey:
    """What was found in a data set."""

    path: str
    findings: list[Finding] = field(default_factory=list)
    table: CocoTable | None = None
    #: file and picture of each image of the table
    files: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    #: where each object is in the file, which has others that cannot be read
    places: list[str] = field(default_factory=list)
    #: odd objects, (N,) bool
    odd: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    #: share of the variance of each channel that lies between the images; none of fewer than two
    between: list[float] = field(default_factory=list)

    def add(self, kind: str, outcome: str, places: Sequence[str], severity: int = 1) -> None:
        if places:
            self.findings.append(Finding(kind, outcome, len(places), list(places[:MOST]), severity))

    @property
    def severity(self) -> int:
        """The highest of the findings'."""
        return max((one.severity for one in self.findings), default=0)


def survey(path: str, folder: str, classes: Sequence[str] | None = None, masks: bool | None = None) -> Survey:
    """Look at an annotation file and its images.

    Args:
        path: of the annotations. folder: of the images.
        classes: that are to be learned; by default all categories.
        masks: whether masks are to be learned; by default if half of the objects have one.

    Raises:
        FileNotFoundError, ValueError: no such file, or no JSON.
    """
    check_ann_file(path)
    with open(path, 'rb') as file:
        try:
            data = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise ValueError(f'ann_file {path}: not JSON ({error})') from None
    found = Survey(path)
    kept = _kept(found, data)
    if kept is None:
        return found
    refused: list[str] = []
    table = found.table = make_table(path, kept, refused)
    for text in refused:
        found.add(text.partition(':')[0], REFUSED, [text], 2)
    found.files = [os.path.join(folder, name) for _, name in map(table.name, range(len(table)))]
    found.files = [name if os.path.isfile(name) else name.replace('\\', '/') for name in found.files]
    _look_at_objects(found, table, classes, masks)
    _look_at_images(found, table)
    return found


def _kept(found: Survey, data: Any) -> dict | None:
    """The file's contents without entries that keep it from being read; None if nothing is left of it."""
    kinds = defaultdict(list)
    bad = set()
    for fault in faults(data):
        kinds[_kind(fault.text)].append(fault.text)
        bad.add((fault.key, fault.number))
    for kind, texts in kinds.items():
        found.add(kind, REFUSED, texts, 2)
    if any(key == '' for key, _ in bad):
        return None
    found.places = [place(i, one) for i, one in enumerate(data.get('annotations', ())) if ('annotations', i) not in bad]
    return {
        key: [one for i, one in enumerate(data[key]) if (key, i) not in bad]
        for key in ('images', 'annotations', 'categories')
        if key in data
    }


def _kind(text: str) -> str:
    """What a fault has in common with others: its words without place and value."""
    text = text.removeprefix("not in COCO's format: ")
    text = re.sub(r'\b(images|annotations|categories)\[\d+\](?: \([^)]*\))?', r'\1', text)
    text = re.sub(r'^(\w+) and \w+ (have the same id) .*', r'\1 that \2', text)
    text = re.sub(r', got .*|; mmdet data check.*|(?<=polygon) .*', '', text)
    return re.sub(r'(?<=run-length encoding) of .*|(?<=has the size) .*|(?<=has the id) .*', '', text)


def _look_at_objects(found: Survey, table: CocoTable, classes: Sequence[str] | None, masks: bool | None) -> None:
    arrays = table.arrays
    names = [name for _, name in table.categories]
    labels = np.array([0 if classes is None or name in classes else -1 for name in names] + [-1])
    total = len(arrays['category'])
    masks = table.masked.mean() > 0.5 if masks is None and total else bool(masks)
    found.odd, left = np.zeros(total, dtype=bool), np.ones(total, dtype=bool)

    def places(those: np.ndarray) -> list[str]:
        return [found.places[i] for i in those]

    for what, those, _ in unlearned(table, labels, True, masks):
        left &= ~those
        odd = what in OUTCOMES or what == "marked 'ignore'"
        outcome = OUTCOMES.get(what, 'as it should be')
        found.add(f'objects: {what}', outcome, places(np.flatnonzero(those)), int(odd))
        if what in OUTCOMES:
            found.odd |= those
    found.add('polygons of fewer than three points', 'left out', places(np.flatnonzero(arrays['spoilt'])))
    if total:
        keys = np.column_stack([table.owner, arrays['category'], arrays['box']])[left]
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        again = np.flatnonzero(left)[first[inverse.reshape(-1)] != np.arange(len(keys))]
        found.odd[again] = True
        found.add('objects that are there twice', 'learned twice, and one of two can never be found', places(again))
    used = Counter(arrays['category'][left].tolist())
    unused = [name for i, name in enumerate(names) if not used[i] and (classes is None or name in classes)]
    unused += [name for name in classes or () if name not in names]
    found.add('classes without objects', 'never learned', list(map(repr, unused)))
    if not left.any():
        found.add('nothing to learn', 'a training would learn background alone', ['all objects are left out'])
    files = Counter(name for _, name in map(table.name, range(len(table))))
    twice = [name for name, count in files.items() if count > 1]
    found.add('images that are listed twice', 'the objects of each entry are background in the other', twice)
    objects = np.bincount(table.owner[left], minlength=len(table))
    empty = [found.files[i] for i in np.flatnonzero(objects == 0)]
    found.add('images without objects', 'left out with filter_empty_gt, else background', empty, 0)


def _look_at_images(found: Survey, table: CocoTable) -> None:
    sides = list(zip(table.arrays['height'].tolist(), table.arrays['width'].tolist()))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV works outside the interpreter's lock
        found.pictures = list(track(pool.map(look, found.files, sides), 'images', len(found.files)))
    kinds = defaultdict(list)
    for picture in found.pictures:
        if picture.problem:
            kinds[picture.problem.partition(': ')[2].partition(' ')[0]].append(picture.problem)
    for start, kind in (('no', 'missing'), ('cannot', 'unreadable'), ('is', 'of another size than annotated')):
        found.add(f'images: {kind}', 'a training is refused, or ends when it meets one', kinds[start], 2)
    same = defaultdict(list)
    for name, picture in zip(found.files, found.pictures):
        if picture.digest:
            same[picture.digest].append(name)
    places = [' = '.join(sorted(set(names))) for names in same.values() if len(set(names)) > 1]
    found.add('pictures that are there twice', 'learned twice, perhaps with other objects', places)
    good = [one for one in found.pictures if one.mean]
    if len(good) > 1:
        means, variances = (torch.tensor([getattr(one, key) for one in good]) for key in ('mean', 'variance'))
        found.between = between_share(means.double(), variances.double())[1].tolist()


def look(path: str, size: tuple[int, int]) -> Picture:
    """Read an image.

    Args:
        size: (height, width) that its annotations say.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return Picture(
            f'image {path}: no such file'
            if isinstance(error, FileNotFoundError)
            else f'image {path}: cannot be read ({error.strerror})'
        )
    problem = cut_off(data)
    image = None if problem else cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return Picture(f'image {path}: cannot be read as an image ({problem or "unknown format, or damaged"})')
    mean, std = cv2.meanStdDev(image)
    problem = size_problem(dict(img_path=path, height=size[0], width=size[1]), image.shape, image_size(data)[1])
    return Picture(
        problem, hashlib.sha256(data).digest(), mean.ravel().tolist()[::-1], (std.ravel() ** 2).tolist()[::-1]
    )


def recommend(between: Sequence[float]) -> str:
    """Which norm to take with one or two images a batch, by how little one image stands for the others.

    The rule is that of docs/results.md: BN holds below a tenth of the variance between images and fails above three.
    """
    share = max(between)
    if share < 0.1:
        return "alike: BN does with one image a batch; norm_cfg=dict(type='CBN+GN') does as well"
    if share > 0.3:
        return (
            "unlike: BN fails with one or two images a batch. Take norm_cfg=dict(type='CBN+GN'), or GN behind a frozen "
            'pretrained backbone'
        )
    return "between alike and unlike, where nothing was tried: norm_cfg=dict(type='CBN+GN') is the safe choice"


# -- a file without the faults -------------------------------------------------------------------------------------


def mend(path: str, folder: str, out: str) -> str:
    """Write a file without what is wrong in another; returns what was done, in words.

    What is surely meant is put right: sizes of images that the file lacks, areas, ids that count from another number,
    boxes that are [x1, y1, x2, y2], an image or category that is listed twice. The rest is left out.

    Raises:
        ValueError: nothing could be made of it.
    """
    with open(path, 'rb') as file:
        data = json.loads(file.read())
    done: Counter = Counter()
    for image in data.get('images') or () if isinstance(data, dict) else ():
        name = image.get('file_name') if isinstance(image, dict) else None
        if isinstance(name, str) and not all((number(image.get(key)) or 0) >= 1 for key in ('height', 'width')):
            try:
                size, turn = image_size((Path(folder) / name.replace('\\', '/')).read_bytes())
            except OSError:
                continue
            if size:
                image['height'], image['width'] = size[::-1] if turn in ON_ITS_SIDE else size
                done['sizes taken from images'] += 1
    before = len(data.get('annotations') or ()) if isinstance(data, dict) else 0
    found = Survey(path)
    kept = _kept(found, data)
    for image in _of_one_id(data):  # whose objects are whose?
        done['images of one id left out'] += 1
        kept['images'] = [one for one in kept['images'] if one['id'] != image['id']]
    if kept is None or 'annotations' not in kept:
        raise ValueError(f'ann_file {path}: {found.findings[0].examples[0] if found.findings else "no annotations"}')
    refused: list[str] = []
    make_table(path, kept, refused)
    for text in refused:
        _put_right(text, kept, done)
    table = make_table(path, kept)
    sizes = list(zip(table.arrays['height'].tolist(), table.arrays['width'].tolist()))
    first: dict[str, Any] = {}
    images, moved = [], {}
    for image, size in zip(kept['images'], sizes):
        problem = look(os.path.join(folder, image['file_name'].replace('\\', '/')), size).problem
        if problem:
            done['images left out (missing, unreadable or of another size)'] += 1
        elif image['file_name'] in first:
            moved[image['id']] = first[image['file_name']]
            done['images that were listed twice'] += 1
        else:
            first[image['file_name']] = image['id']
            images.append(image)
    known = {image['id'] for image in images}
    labels = np.zeros(len(table.categories) + 1, dtype=np.int64)
    labels[-1] = -1
    for i, area in enumerate(table.arrays['area']):
        if area <= 0 and min(table.arrays['box'][i, 2:]) >= 1:
            kept['annotations'][i]['area'] = float(table.arrays['box'][i, 2] * table.arrays['box'][i, 3])
            done['areas taken from boxes'] += 1
    bad = np.zeros(len(kept['annotations']), dtype=bool)
    for what, those, _ in unlearned(make_table(path, kept), labels, True):
        bad |= those & (what in (NO_IMAGE, NO_CATEGORY, BAD_BOX))
    objects, seen = [], set()
    for annotation, wrong in zip(kept['annotations'], bad):
        annotation['image_id'] = moved.get(annotation['image_id'], annotation['image_id'])
        key = (annotation['image_id'], annotation['category_id'], tuple(annotation['bbox']))
        if wrong or annotation['image_id'] not in known or key in seen:
            continue
        seen.add(key)
        mask = annotation.get('segmentation')
        if not isinstance(mask, dict):
            annotation['segmentation'] = [one for one in mask or () if len(one) >= 6 and len(one) % 2 == 0]
        annotation.update(id=len(objects) + 1, iscrowd=int(annotation['iscrowd']))
        objects.append({key: value for key, value in annotation.items() if key != 'ignore' or value})
    if len(objects) < before:
        done['objects left out'] = before - len(objects)
    written = dict(data, images=images, annotations=objects, categories=kept['categories'])
    text = json.dumps(written)
    check_coco(out, written)  # which may change it
    make_table(out, written)
    write_atomic(text.encode(), out)
    changes = ', '.join(f'{count} {what}' for what, count in done.items()) or 'nothing was wrong'
    return f'{out}: {len(images)} images, {len(objects)} objects; {changes}'


def _of_one_id(data: Any) -> list[dict]:
    return [data['images'][fault.number] for fault in faults(data) if 'same id' in fault.text and fault.key == 'images']


def _put_right(text: str, data: dict, done: Counter) -> None:
    """What was refused of the file as a whole."""
    counted = re.match(r'(image_id|category_id) is counted.*(Add|Take) 1', text)
    if counted:
        for annotation in data['annotations']:
            if isinstance(annotation.get(counted[1]), int):
                annotation[counted[1]] += 1 if counted[2] == 'Add' else -1
        done[f'{counted[1]} counted from another number'] += 1
    elif 'look like [x1' in text:
        for annotation in data['annotations']:
            x, y, right, bottom = annotation['bbox']
            annotation['bbox'] = [x, y, right - x, bottom - y]
        done['boxes that were [x1, y1, x2, y2]'] += len(data['annotations'])
    elif 'have the same name' in text:
        ids: dict[str, Any] = {}
        renamed = {one['id']: ids.setdefault(one['name'], one['id']) for one in data['categories']}
        data['categories'] = [one for one in data['categories'] if renamed[one['id']] == one['id']]
        for annotation in data['annotations']:
            annotation['category_id'] = renamed.get(annotation['category_id'], annotation['category_id'])
        done['categories of one name'] += 1
    else:
        raise ValueError(f'{text}; this cannot be put right without knowing what is meant')


# -- the command ---------------------------------------------------------------------------------------------------


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
        print(mend(args.ann, args.img_root or os.path.dirname(args.ann), args.fix))
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
