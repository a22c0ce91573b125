"""Finds the annotations, images and classes of a data set in COCO's format, however its folders are laid out."""

import filecmp
import hashlib
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import msgspec
import numpy as np

from mmdet.datasets.coco_file import read_coco
from mmdet.datasets.coco_table import CocoTable, read_table

#: what files and folders are called, by the part that they are of
WORDS = dict(
    train='train', training='train', val='val', valid='val', validation='val', dev='val', test='test', testing='test'
)
#: levels of folders, folders, and JSON files that are looked at
DEPTH, FOLDERS, FILES = 4, 1000, 200
#: how the names of copies end that are written to a work dir, which may lie in the data set's folder
COPY = '.copy.json'
#: one image in so many validates where there is no file for it
ONE_IN = 5
#: the share of the objects that must have a mask
MASKED = 0.9
#: how the file that a file_name means may be called here; CocoDataset itself reads what the first one finds
SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda name: name.replace('\\', '/'),
    lambda name: unquote(name.replace('\\', '/')),
    lambda name: name.replace('\\', '/').rpartition('/')[2],
    lambda name: unquote(name.replace('\\', '/').rpartition('/')[2]),
)


class _Keys(msgspec.Struct):
    images: msgspec.Raw
    annotations: msgspec.Raw
    categories: msgspec.Raw


@dataclass
class Part:
    """An annotation file and its images' folder, relative to the data set's root; ``data`` is a copy to use instead."""

    ann_file: str
    folder: str
    table: CocoTable
    data: dict | None = None

    def objects(self) -> Counter[str]:
        """The number of objects of each category that has some."""
        if self.data is not None:
            names = {one['id']: one['name'] for one in self.data['categories']}
            named = (names.get(one.get('category_id')) for one in self.data['annotations'])
            return Counter(name for name in named if name is not None)
        category = self.table.arrays['category']
        found: Counter[str] = Counter()
        for i, number in enumerate(np.bincount(category[category >= 0])):
            found[self.table.categories[i][1]] += int(number)  # two categories may have one name
        return +found

    def images(self) -> int:
        """The number of images."""
        return len(self.table) if self.data is None else len(self.data['images'])


@dataclass
class OwnData:
    """What was found below ``root``: parts by 'train', 'val' and 'test', classes, and sentences about the rest."""

    root: Path
    parts: dict[str, Part]
    classes: tuple[str, ...] = ()
    masks: bool = False
    notes: list[str] = field(default_factory=list)


def find_data(root: str, chosen: dict[str, dict[str, str]], leave_out: Path, validate: bool = True) -> OwnData:
    """Find a data set's annotation files, image folders and classes.

    Args:
        root: a folder as COCO, CVAT, Label Studio, Roboflow or this package's own sets have it.
        chosen: for a part ``ann_file`` or ``folder`` that are not to be searched for.
        leave_out: a folder that is not looked into, where runs are written.
        validate: without a file for validation one image in :data:`ONE_IN` is taken out of the training's.

    Returns:
        Its classes are those with objects to train on, by the training file's ids, and behind them those that only the
        validation has.

    Raises:
        FileNotFoundError: no such folder; no annotations in COCO's format in it; images that are not there.
        ValueError: several files could be meant; no objects; as :func:`.read_coco`.
    """
    place = Path(os.path.abspath(root))
    if not place.is_dir():
        kind = 'is a file' if place.is_file() else 'no such folder'
        raise FileNotFoundError(f'--data {root}: {kind}; give the folder that holds annotations and images')
    folders, files, others = _walk(place, leave_out)
    data = OwnData(place, {})
    candidates: dict[str, list[str]] = {}
    other_json = []
    for name in files:
        candidates.setdefault(part_of(name), []).append(name) if _is_coco(place / name) else other_json.append(name)
    unused = {name for names in candidates.values() for name in names}
    if 'train' not in candidates and '' not in candidates and len(unused) == 1:
        candidates = {'train': list(unused)}
    if 'train' not in candidates and '' in candidates:
        candidates['train'] = candidates['']
    for part in ('train', 'val', 'test') if validate else ('train', 'test'):
        wanted = chosen.get(part, {})
        if 'ann_file' in wanted:
            names = [wanted['ann_file']]
        else:
            names = candidates.get(part, [])
        if not names and part == 'train':
            raise FileNotFoundError(_nothing(root, candidates, other_json, others))
        if names:
            ann_file = _one_of(place, root, part, names)
            unused.discard(ann_file)
            table = read_table(str(place / ann_file))
            found = Part(ann_file, '', table)
            if not found.objects():
                text = f'{place / ann_file}: {len(table)} images, but no object of one of its categories'
                if part == 'train':
                    raise ValueError(f'{text}; there is nothing to learn')
                data.notes.append(f'{text}: not used')
                continue
            try:
                found.folder, spelling = _find_images(place, ann_file, table, part, folders, wanted.get('folder'))
            except FileNotFoundError as error:
                if part != 'test':  # without which one can train
                    raise
                data.notes.append(f'{error}. Not used')
                continue
            if spelling:
                found.data = _renamed(place / ann_file, SPELLINGS[spelling])
                data.notes.append(f'{ann_file}: file names without the folders of another machine, in a copy')
            data.parts[part] = found
    if validate and 'val' not in data.parts:
        number = len(data.parts['train'].table)
        taken = _split(data)
        data.notes.append(
            f'no annotations for validation: {taken} of {number} images are set aside, by the hashes of their names'
        )
    data.parts = {part: data.parts[part] for part in ('train', 'val', 'test') if part in data.parts}
    data.masks = have_masks(data, 'train')
    _name_classes(data)
    if unused:
        data.notes.append(f'annotations not used: {", ".join(sorted(unused)[:5])}{", ..." if len(unused) > 5 else ""}')
    return data


def part_of(path: str) -> str:
    """'train', 'val' or 'test', by the words in a file's name or else in its innermost folder that says one; or ''."""
    for name in reversed(path.split('/')):
        words = {word.lower() for word in re.findall('[A-Z]?[a-z]+|[A-Z]+', name)}
        found = {WORDS[word] for word in words if word in WORDS}
        if len(found) == 1:
            return found.pop()
    return ''


def _walk(root: Path, leave_out: Path) -> tuple[list[str], list[str], Counter[str]]:
    """Folders and JSON files, relative to the root, which is ''; and how many files have each other ending."""
    folders: list[str] = []
    files: list[str] = []
    others: Counter[str] = Counter()
    for path, inner, names in os.walk(root, followlinks=True):
        relative = os.path.relpath(path, root).replace(os.sep, '/')
        relative = '' if relative == '.' else relative
        deep = relative.count('/') + bool(relative) >= DEPTH
        inner[:] = (
            []
            if deep or len(folders) >= FOLDERS
            else sorted(
                name
                for name in inner
                if not name.startswith('.') and name != 'work_dirs' and Path(path, name) != leave_out
            )
        )
        folders.append(relative)
        for name in names:
            if name.endswith(COPY) or name.startswith('.'):
                continue
            if name.lower().endswith('.json'):
                files.append(f'{relative}/{name}' if relative else name)
            else:
                others[Path(name).suffix.lower()] += 1
    files.sort(key=lambda name: ('annotation' not in name and 'instances' not in name, name.count('/'), name))
    return folders, files[:FILES], others


def _is_coco(path: Path) -> bool:
    """Whether a file has the lists of COCO's format; one that is broken may have been meant to."""
    try:
        msgspec.json.decode(path.read_bytes(), type=_Keys)
    except msgspec.ValidationError:
        return False
    except (msgspec.DecodeError, RecursionError):
        return part_of(path.stem) != '' or re.search('annotation|instances|coco', path.stem) is not None
    return True


def _nothing(root: str, candidates: dict, other_json: list[str], others: Counter[str]) -> str:
    """Why there is nothing to train on."""
    if candidates:
        found = ', '.join(name for names in candidates.values() for name in names)
        return f"--data {root}: no annotations to train on; there are {found}. Call the training's train.json"
    text = f"--data {root}: no annotations in COCO's format (JSON with images, annotations and categories)"
    if others['.xml']:
        sets = sorted(path.stem for path in Path(root).glob('ImageSets/Main/*.txt'))
        split = 'train' if 'train' in sets else next(iter(sets), None)
        words = ['mmdet', 'convert', 'voc', str(root), *(('--split', split) if split else ())]
        words += ['--classes', 'NAME', '...', '--out', os.path.join(root, 'annotations', f'{split or "train"}.json')]
        return f'{text}; its {others[".xml"]} XML files look like Pascal VOC: {shlex.join(words)}'
    if other_json:
        return f'{text}; {other_json[0]} is JSON of another kind. Export the data set as COCO'
    if others['.txt'] > 1:
        return f'{text}; its {others[".txt"]} text files look like YOLO. Export the data set as COCO, or as Pascal VOC'
    return f'{text}. Export the data set as COCO'


def _one_of(root: Path, given: str, part: str, names: list[str]) -> str:
    names = [name for name in names if Path(name).name.startswith('instances')] or names
    for name in names[1:]:
        if not filecmp.cmp(root / names[0], root / name, shallow=False):
            raise ValueError(
                f"--data {given}: {names[0]} and {name} could both be the annotations of part '{part}', and differ. "
                f'Name one: --cfg-options {part}_dataloader.dataset.ann_file={names[0]}'
            )
    return names[0]


def _find_images(
    root: Path, ann_file: str, table: CocoTable, part: str, folders: list[str], wanted: str | None
) -> tuple[str, int]:
    """The folder in which the first, a middle and the last image are, and the number of the spelling of their names."""
    if not len(table):
        raise ValueError(f'{root / ann_file}: has no images')
    own = ann_file.rpartition('/')[0]

    def rank(folder: str) -> tuple:
        said = part_of(folder)
        return folder != own, said != part, said != '', folder.count('/'), folder

    # the file's own folder, then those of this part, those of no part, and those of others
    tried = sorted(folders, key=rank) if wanted is None else [wanted]
    names = [table.name(i)[1] for i in sorted({0, len(table) // 2, len(table) - 1})]
    best, missing = -1, ''
    for number, spelling in enumerate(SPELLINGS):
        spelt = [spelling(name) for name in names]
        for folder in tried:
            there = [(root / folder / name).is_file() for name in spelt]
            if all(there) and (number == 0 or _differ(table, spelling)):
                return folder, number
            if sum(there) > best:
                best, missing = sum(there), spelt[there.index(False)] if not all(there) else spelt[0]
                first = folder
    second = next((folder for folder in tried if folder != first), None)
    paths = [str(root / folder / missing) for folder in (first, second) if folder is not None]
    raise FileNotFoundError(
        f'{root / ann_file}: its image {missing!r} is not there: tried {" and ".join(paths)}'
        + (f', and {len(tried) - 2} more' if len(tried) > 2 else '')
        + f'. Name the folder: --cfg-options {part}_dataloader.dataset.data_prefix.img=FOLDER'
    )


def _differ(table: CocoTable, spelling: Callable[[str], str]) -> bool:
    return len({spelling(table.name(i)[1]) for i in range(len(table))}) == len(table)


def _renamed(path: Path, spelling: Callable[[str], str]) -> dict:
    data = read_coco(str(path))
    for image in data['images']:
        image['file_name'] = spelling(image['file_name'])
    return data


def _split(data: OwnData) -> int:
    """Take images out of the part 'train' for one 'val'; returns how many."""
    train = data.parts['train']
    whole = train.data or read_coco(str(data.root / train.ann_file))
    with_objects = {one['image_id'] for one in whole['annotations']}
    groups: dict[str, list] = {}
    for image in whole['images']:
        # Roboflow's copies of an image, which differ behind '.rf.', must not be on both sides
        groups.setdefault(image['file_name'].partition('.rf.')[0], []).append(image['id'])
    taken: set = set()
    for filled in (True, False):
        of_kind = [name for name, ids in groups.items() if bool(with_objects.intersection(ids)) == filled]
        if filled and len(of_kind) < 2:
            raise ValueError(
                f'{data.root / train.ann_file}: there are no annotations for validation, and only {len(of_kind)} '
                'different images have objects: too few to set some aside. Add images, or a file val.json'
            )
        of_kind.sort(key=lambda name: hashlib.sha256(name.encode(errors='surrogatepass')).digest())
        for name in of_kind[: max(len(of_kind) // ONE_IN, int(filled))]:
            taken.update(groups[name])

    def subset(wanted: Iterable) -> dict:
        return dict(
            whole,
            images=[one for one in whole['images'] if one['id'] in wanted],
            annotations=[one for one in whole['annotations'] if one['image_id'] in wanted],
        )

    data.parts['val'] = Part(train.ann_file, train.folder, train.table, subset(taken))
    train.data = subset({one['id'] for one in whole['images']} - taken)
    return len(taken)


def have_masks(data: OwnData, part: str) -> bool:
    """Whether (nearly) all objects have a mask."""
    share = data.parts[part].table.masked.mean()  # there are objects
    if 0 < share < MASKED:
        data.notes.append(
            f'{part}: only {share:.0%} of the objects have a mask, so boxes alone are '
            + ('trained' if part == 'train' else 'evaluated')
        )
    return bool(share >= MASKED)


def _name_classes(data: OwnData) -> None:
    """Choose the classes; a training file whose categories lack one of them gets a copy that has it."""
    train = data.parts['train']
    found = train.objects()
    order = [name for _, name in sorted(train.table.categories, key=lambda category: category[0])]
    classes = [name for name in dict.fromkeys(order) if name in found]
    only: list[str] = []
    if 'val' in data.parts:
        val = data.parts['val']
        only = [name for name in dict.fromkeys(n for _, n in val.table.categories) if name in val.objects()]
        only = [name for name in only if name not in found]
    data.classes = (*classes, *only)
    left_out = [name for name in dict.fromkeys(order) if name not in data.classes]
    if left_out:
        data.notes.append(f'without objects to train on, and no classes: {", ".join(map(repr, left_out))}')
    if only:
        data.notes.append(f'only validation has objects of {", ".join(map(repr, only))}; nothing is learnt of them')
    if 'test' in data.parts:
        strange = [name for name in data.parts['test'].objects() if name not in data.classes]
        if strange:
            data.notes.append(f'only test has objects of {", ".join(map(repr, strange))}; they are left out')
    new = [name for name in only if name not in order]
    if new:
        train.data = train.data or read_coco(str(data.root / train.ann_file))
        ids = [one['id'] for one in train.data['categories']]
        for name in new:
            key = max(ids) + 1 if isinstance(ids[0], int) else max(ids, key=len) + name
            ids.append(key)
            train.data['categories'].append(dict(id=key, name=name))
