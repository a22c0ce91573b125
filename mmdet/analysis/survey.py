"""What is in a data set, and what is wrong with it: every annotation and every image is looked at once."""

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from mmdet.analysis.image_statistics import between_share
from mmdet.datasets.coco import BAD_BOX, NO_CATEGORY, NO_IMAGE, NO_MASK, unlearned
from mmdet.datasets.coco_file import check_ann_file, faults, number, place
from mmdet.datasets.coco_table import CocoTable, make_table
from mmdet.datasets.files import ON_ITS_SIDE
from mmdet.datasets.transforms.loading import cut_off, image_size, size_problem
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
    unsized = add_sizes(data, folder)
    found.add('images without height and width', f'{REFUSED}; --fix takes them from the images', unsized, 2)
    kept = readable(found, data)
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


def add_sizes(data: Any, folder: str) -> list[str]:
    """Give the images of a file's contents that have no height and width those of their files; returns their names."""
    images = data.get('images') if isinstance(data, dict) else None
    added = []
    for image in images if isinstance(images, list) else ():
        name = image.get('file_name') if isinstance(image, dict) else None
        if not isinstance(name, str) or all((number(image.get(key)) or 0) >= 1 for key in ('height', 'width')):
            continue
        size, turn = image_size(os.path.join(folder, name.replace('\\', '/')))
        if size:
            image['height'], image['width'] = size[::-1] if turn in ON_ITS_SIDE else size
            added.append(name)
    return added


def readable(found: Survey, data: Any) -> dict | None:
    """The file's contents without entries that keep it from being read; None if nothing is left of it."""
    kinds = defaultdict(list)
    bad = set()
    for fault in faults(data):
        kinds[_kind(fault.text), f'{REFUSED} where it loads masks' if fault.masks else REFUSED].append(fault.text)
        bad.add((fault.key, fault.number))
    for (kind, effect), texts in kinds.items():
        found.add(kind, effect, texts, 2)
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
