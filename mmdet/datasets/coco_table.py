"""COCO annotation files in flat arrays, read as a stream and kept beside large files."""

import codecs
import glob
import hashlib
import json
import mmap
import os
import time
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import mmengine
import msgspec
import numpy as np
import torch
from mmengine.logging import print_log

from mmdet.io.atomic import is_whole, replace_when_done, seal, sha256

from .coco_file import LARGEST, LONGEST, check_ann_file, outline, read_coco, refer
from .transforms.loading import rle_problem

#: bytes; smaller files are read before anybody notices
CACHE_FROM = 32 << 20

T = TypeVar('T', bound=msgspec.Struct)
#: of local files, by path, times, size and inode
_IN_USE: WeakValueDictionary = WeakValueDictionary()


class CocoTable:
    """Holds what a COCO annotation file says in flat arrays: no Python object for each of hundred thousands of objects.

    ``X_end`` says where the part of each owner ends in a longer array. The arrays are, for each image, ``height``,
    ``width``, its id and file_name as JSON (``names``, ``names_end``) and its objects (``order``, ``order_end``); for
    each object, as in the file, ``box`` (N, 4) x, y, width, height in pixels, ``area`` (that of the box where the file
    has none), ``category`` (a position in :attr:`categories`, -1 for none of them), ``usable`` (a box with an area
    inside its image), ``crowd``, ``ignored``, ``spoilt`` (the number of its polygons that are none), a run-length
    encoding as JSON (``rle``, ``rle_end``) and polygons (``polygons_end``). A polygon's x1, y1, x2, ... are
    ``hundredths`` of pixels (int32), as in COCO, or, where that is not exact, ``floats`` (float64).

    Args:
        arrays: by these names.
        categories: the file's, (id, name).
        supercategories: of each category, None of one that has none.
        annotated: the file has a list of annotations.
        strays: by the name of the field the first object whose ``image_id`` or ``category_id`` the file does not have
            (its number, the value), and the first image whose ``file_name`` another has, too.
    """

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        categories: Sequence[tuple],
        supercategories: Sequence[str | None],
        annotated: bool,
        strays: dict[str, tuple],
    ) -> None:
        self.arrays, self.categories, self.supercategories = arrays, categories, supercategories
        self.annotated, self.strays = annotated, strays

    def __len__(self) -> int:
        return len(self.arrays['height'])

    def __deepcopy__(self, memo: dict) -> 'CocoTable':
        return self  # nobody can change it

    def part(self, name: str, owner: int) -> np.ndarray:
        """Return of array ``name`` what belongs to image, object or polygon number ``owner``."""
        ends = self.arrays[f'{name}_end']
        return self.arrays[name][ends[owner - 1] if owner else 0 : ends[owner]]

    def name(self, image: int) -> tuple[int | str, str]:
        """Return id and file_name of an image."""
        return tuple(json.loads(self.part('names', image).tobytes()))

    @property
    def owner(self) -> np.ndarray:
        """The image of each object, (N,) int64; -1 of one that is in no image."""
        owner = np.full(len(self.arrays['category']), -1)
        owner[self.arrays['order']] = np.repeat(np.arange(len(self)), np.diff(self.arrays['order_end'], prepend=0))
        return owner

    @property
    def masked(self) -> np.ndarray:
        """Whether each object has a mask, (N,) bool."""
        return np.diff(self.arrays['rle_end'] + self.arrays['polygons_end'], prepend=0) > 0

    def mask(self, number: int) -> list[list[float]] | dict | None:
        """Return an object's polygons (x1, y1, x2, y2, ... in pixels) or run-length encoding; None without one."""
        rle = self.part('rle', number)
        if len(rle):
            return json.loads(rle.tobytes())
        ends = self.arrays['polygons_end']
        first, last = ends[number - 1] if number else 0, ends[number]
        return [
            (self.part('floats', k) if self.part('floats', k).size else self.part('hundredths', k) / 100).tolist()
            for k in range(first, last)
        ] or None


def read_table(path: str, backend_args: dict | None = None, cache: bool = True) -> CocoTable:
    """Read a COCO annotation file as flat arrays, which whoever else reads it gets, too, as long as they are in use.

    Args:
        path, backend_args: as of :func:`.read_coco`.
        cache: keep what was read of a local file of :data:`CACHE_FROM` bytes or more in ``PATH.cache``. It is used as
            long as the file's SHA-256 is the same. Where it cannot be written the file is read each time.

    Raises:
        FileNotFoundError, ValueError: as :func:`.read_coco`.
    """
    check_ann_file(path)
    if '://' in path or backend_args is not None or not os.path.getsize(path):
        return _read(path, mmengine.fileio.get(path, backend_args=backend_args), backend_args)
    now = os.stat(path)
    contents = (os.path.realpath(path), now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_ino)
    table = _IN_USE.get(contents)
    if table is None:
        table = _IN_USE[contents] = _read_local(path, cache)
    return table


def _read_local(path: str, cache: bool) -> CocoTable:
    with open(path, 'rb') as file:
        before = os.fstat(file.fileno())
        cache = cache and before.st_size >= CACHE_FROM
        if cache:
            # Of the file's contents and of the code that has read them.
            key = hashlib.sha256(sha256(file, before.st_size).digest() + Path(__file__).read_bytes()).hexdigest()
            with suppress(OSError, ValueError):
                return _load(f'{path}.cache', key)
        # A mapped file that is cut off meanwhile ends the process: only where reading it would double the memory.
        table = _read(
            path, file.read() if before.st_size < CACHE_FROM else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        )
    if cache and int(os.environ.get('LOCAL_RANK', 0)) == 0:
        try:
            if os.stat(path).st_mtime_ns == before.st_mtime_ns:  # what was read is what the key is of
                _save(table, f'{path}.cache', key)
        except OSError as error:
            print_log(f'{path}.cache: cannot be written ({error.strerror}); {path} is read at each start', 'current')
    return table


def _save(table: CocoTable, path: str, key: str) -> None:
    for left in Path(path).parent.glob(f'.{glob.escape(Path(path).stem)}.????????.tmp.cache'):  # by a killed process
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
    with replace_when_done(path) as temporary:
        with open(temporary, 'wb') as file:
            torch.save(
                dict(
                    key=key,
                    table=(table.categories, table.supercategories, table.annotated, table.strays),
                    arrays={  # torch takes empty ones for one tensor
                        name: torch.from_numpy(values if values.size else values.copy())
                        for name, values in table.arrays.items()
                    },
                ),
                file,
            )
        seal(temporary)


def _load(path: str, key: str) -> CocoTable:
    """Raises OSError or ValueError: no such file, damaged, or of other annotations."""
    # Read, not mapped: of a mapped file that another machine replaces the rest is a SIGBUS, a day into a training.
    with open(path, 'rb') as file:
        if not is_whole(file):
            raise ValueError(f'{path}: damaged')
        file.seek(0)
        try:
            kept = torch.load(file, weights_only=True)
            if kept['key'] == key:
                return CocoTable({name: values.numpy() for name, values in kept['arrays'].items()}, *kept['table'])
        except Exception as error:  # of something else under this name anything
            raise ValueError(f'{path}: {error}') from None
    raise ValueError(f'{path}: of other annotations, or read by another version')


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    height: float
    width: float


class _Category(msgspec.Struct, gc=False):
    id: int | str
    name: str
    supercategory: Any = None


class _Object(msgspec.Struct, gc=False):
    image_id: int | str
    bbox: tuple[float, float, float, float]
    category_id: int | str | None = None
    area: float | None = None
    iscrowd: int | float | bool | None = None
    ignore: int | float | bool | None = None
    segmentation: list[list[float]] | dict | None = None


class _File(msgspec.Struct, gc=False):
    images: list[_Image]
    categories: list[_Category]
    # Decoded some at a time: as Python's numbers they are four times the file.
    annotations: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


def _read(path: str, data: bytes | mmap.mmap, backend_args: dict | None = None) -> CocoTable:
    """The fast way for a file that is as it should be; any other goes the plain way, which says what is wrong."""
    with suppress(ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return _read_fast(path, data)
    return _read_plain(path, backend_args)


def _read_fast(path: str, data: bytes | mmap.mmap) -> CocoTable:
    decoder = codecs.getincrementaldecoder('utf-8')()  # msgspec does not look at texts that it leaves out
    for start in range(0, len(data), 1 << 20):
        decoder.decode(data[start : start + (1 << 20)], start + (1 << 20) >= len(data))
    file = msgspec.json.decode(data, type=_File)
    for items in (file.images, file.categories):
        if len({one.id for one in items}) < len(items) or len({type(one.id) for one in items}) > 1:
            raise ValueError
    for image in file.images:
        if not image.file_name or not all(
            1 <= side <= LARGEST and side == int(side) for side in (image.height, image.width)
        ):
            raise ValueError
    builder = _Builder(path, file.images, file.categories, file.annotations is not msgspec.UNSET)
    objects = map(msgspec.json.Decoder(_Object).decode, file.annotations or ())
    while builder.add(islice(objects, 256)):  # more at a time keep the garbage collector busy
        if isinstance(data, mmap.mmap) and hasattr(mmap, 'MADV_DONTNEED'):
            data.madvise(mmap.MADV_DONTNEED)  # or all that was read of the file counts as this process's memory
    return builder.build()


def _read_plain(path: str, backend_args: dict | None = None) -> CocoTable:
    return make_table(path, read_coco(path, backend_args))


def make_table(path: str, data: dict, refused: list[str] | None = None) -> CocoTable:
    """Make a table of the contents of a file in which :func:`.faults` has found nothing.

    Args:
        path: for messages.
        data: see :func:`.read_coco`.
        refused: gets what is otherwise raised.

    Raises:
        ValueError: ids, names or boxes of the file as a whole make no sense.
    """

    def made(key: str, kind: type[T]) -> list[T]:
        return [kind(*(one.get(field) for field in kind.__struct_fields__)) for one in data[key]]

    annotated = 'annotations' in data
    builder = _Builder(path, made('images', _Image), made('categories', _Category), annotated, refused)
    builder.add(made('annotations', _Object) if annotated else ())
    return builder.build()


class _Builder:
    """Fills the arrays of a :class:`CocoTable`; raises ValueError where :func:`.read_coco` would refuse the file."""

    def __init__(
        self,
        path: str,
        images: Sequence[_Image],
        categories: Sequence[_Category],
        annotated: bool,
        refused: list[str] | None = None,
    ) -> None:
        self.path, self.annotated, self.refused = path, annotated, refused
        self.images, self.categories = images, [(one.id, one.name) for one in categories]
        self.supercategories = [one.supercategory if isinstance(one.supercategory, str) else None for one in categories]
        self.sizes: dict[Any, tuple[int, tuple[int, int] | None]] = {
            image.id: (i, (int(image.height), int(image.width))) for i, image in enumerate(images)
        }
        self.labels: dict[int | str | None, int] = {one.id: i for i, one in enumerate(categories)}
        #: values that are no id, with the number of the first object that has each
        self.strays: dict[str, dict[int | str | None, int]] = dict(image_id={}, category_id={})
        self.image, self.category, self.spoilt = array('i'), array('i'), array('i')
        self.box, self.area, self.floats, self.hundredths = array('d'), array('d'), array('d'), array('i')
        self.crowd, self.ignored, self.rle = array('B'), array('B'), array('B')
        self.polygons_end, self.rle_end = array('q'), array('q')
        self.floats_end, self.hundredths_end = array('q'), array('q')

    def add(self, objects: Iterable[_Object]) -> int:
        """Returns how many."""
        before, coordinates, lengths = len(self.image), array('d'), []
        polygons = self.polygons_end[-1] if before else 0
        objects = list(objects)
        owners = [self.sizes.get(refer(one.image_id, self.sizes), (-1, None)) for one in objects]
        self.image.extend([image for image, _ in owners])
        self.category.extend([self.labels.get(refer(one.category_id, self.labels), -1) for one in objects])
        for key, found in (('image_id', self.image), ('category_id', self.category)):
            for number in range(before, len(found)) if -1 in found[before:] else ():
                if found[number] == -1:
                    self.strays[key].setdefault(getattr(objects[number - before], key), number)
        self.box.extend(chain.from_iterable(one.bbox for one in objects))
        self.area.extend([one.bbox[2] * one.bbox[3] if one.area is None else one.area for one in objects])
        if any(one.iscrowd not in (None, 0, 1) or one.ignore not in (None, 0, 1) for one in objects):
            raise ValueError
        self.crowd.extend([bool(one.iscrowd) for one in objects])
        self.ignored.extend([bool(one.ignore) for one in objects])
        for one, (_, size) in zip(objects, owners):
            spoilt = 0
            if isinstance(one.segmentation, dict):
                if rle_problem(one.segmentation, size):
                    raise ValueError
                kept = {key: one.segmentation[key] for key in ('size', 'counts')}
                self.rle.frombytes(json.dumps(kept).encode())
            else:
                for polygon in one.segmentation or ():
                    if len(polygon) >= 6 and len(polygon) % 2 == 0:
                        coordinates.extend(polygon)
                        lengths.append(len(polygon))
                    elif all(abs(value) <= LARGEST for value in polygon):
                        spoilt += 1
                    else:
                        raise ValueError
            self.spoilt.append(spoilt)
            self.polygons_end.append(polygons + len(lengths))
            self.rle_end.append(len(self.rle))
        for values, most in (
            (np.asarray(coordinates), LARGEST),
            (np.asarray(self.box)[4 * before :], LARGEST),
            (np.asarray(self.area)[before:], LARGEST**2),
        ):
            if not (np.abs(values) <= most).all():
                raise ValueError
        if lengths:
            self._add_polygons(np.asarray(coordinates), np.array(lengths))
        return len(objects)

    def _add_polygons(self, values: np.ndarray, lengths: np.ndarray) -> None:
        if lengths.max() * (values.max() - values.min()) > LONGEST and any(
            outline(polygon) > LONGEST for polygon in np.split(values, np.cumsum(lengths)[:-1])
        ):
            raise ValueError
        scaled = np.rint(values * 100)
        exact = np.logical_and.reduceat(scaled / 100 == values, np.cumsum(lengths) - lengths)
        for kept, ends, numbers, those in (
            (self.hundredths, self.hundredths_end, scaled.astype(np.int32), exact),
            (self.floats, self.floats_end, values, ~exact),
        ):
            ends.frombytes((len(kept) + np.cumsum(lengths * those)).tobytes())
            kept.frombytes(numbers[np.repeat(those, lengths)].tobytes())

    def build(self) -> CocoTable:
        arrays = {
            name: np.asarray(getattr(self, name))
            for name in (
                'category',
                'spoilt',
                'rle',
                'rle_end',
                'polygons_end',
                'hundredths',
                'hundredths_end',
                'floats',
                'floats_end',
            )
        }
        arrays.update({name: np.asarray(getattr(self, name)).view(bool) for name in ('crowd', 'ignored')})
        height, width = (
            np.array([getattr(image, side) for image in self.images], dtype=np.int32) for side in ('height', 'width')
        )
        owner, box = np.asarray(self.image), np.asarray(self.box).reshape(-1, 4)
        self._check_ids('image_id', 'images', owner, [image.id for image in self.images])
        self._check_ids('category_id', 'categories', arrays['category'], [key for key, _ in self.categories])
        self._check_names(arrays['category'])
        known = np.flatnonzero(owner >= 0)
        self._check_boxes(box[known], width[owner[known]], height[owner[known]])
        x, y, w, h = box.T
        inside = owner >= 0  # an object of no image is in no image's list
        if len(height):
            for low, size, side in ((x, w, width), (y, h, height)):
                inside &= (size >= 1) & (np.minimum(low + size, side[owner]) > np.maximum(low, 0))
        names = [json.dumps([image.id, image.file_name]).encode() for image in self.images]
        arrays.update(
            height=height,
            width=width,
            box=box,
            area=np.asarray(self.area),
            usable=inside & (np.asarray(self.area) > 0),
            names=np.asarray(array('B', b''.join(names))),
            names_end=np.cumsum([len(name) for name in names], dtype=np.int64),
            order=known[np.argsort(owner[known], kind='stable')],
            order_end=np.cumsum(np.bincount(owner[known], minlength=len(height)), dtype=np.int64),
        )
        strays: dict[str, tuple] = {}
        for key, found in self.strays.items():
            if found:
                value, number = next(iter(found.items()))
                strays[key] = (number, value)
        first: dict[str, int] = {}
        for i, image in enumerate(self.images):
            if first.setdefault(image.file_name, i) != i:
                strays['file_name'] = (i, image.file_name)
                break
        return CocoTable(arrays, self.categories, self.supercategories, self.annotated, strays)

    def _refuse(self, text: str) -> None:
        if self.refused is None:
            raise ValueError(f'ann_file {self.path}: {text}')
        self.refused.append(text)

    def _check_ids(self, key: str, owners: str, found: np.ndarray, ids: list) -> None:
        """Refuse a file whose objects mostly refer to nothing, or count from another number than the ids."""
        strays = self.strays[key]
        if not strays:
            return
        value, number = next(iter(strays.items()))
        shown = ', '.join(map(repr, ids[:5])) + (', ...' if len(ids) > 5 else '')
        missing = int((found < 0).sum())
        used = {ids[i] for i in np.unique(found) if i >= 0} | set(strays)
        known, numbers = set(ids), {one for one in used if isinstance(one, int)}
        for step in (1, -1) if len(numbers) == len(used) else ():
            if all(one + step in known for one in numbers):
                return self._refuse(
                    f'{key} is counted from another number than the ids of {owners}: annotations[{number}] has '
                    f'{value!r}, {owners} have {shown}. {"Add 1 to" if step > 0 else "Take 1 from"} each {key}'
                )
        if 2 * missing > len(found):
            self._refuse(
                f'{key} of {missing} of {len(found)} annotations is the id of none of {owners}: annotations[{number}] '
                f'has {value!r}, {owners} have {shown or "no ids"}'
            )

    def _check_names(self, category: np.ndarray) -> None:
        """Refuse a file with objects of two categories of one name."""
        used: dict[str, int | str] = {}
        for i in np.unique(category[category >= 0]).tolist():
            key, name = self.categories[i]
            if name in used:
                self._refuse(
                    f'categories {used[name]!r} and {key!r} have the same name {name!r}, and '
                    'both have objects; give them one id, or two names'
                )
            used[name] = key

    def _check_boxes(self, box: np.ndarray, width: np.ndarray, height: np.ndarray) -> None:
        """Refuse a file whose boxes are surely in another format."""
        if len(box) < 4:
            return
        x, y, w, h = box.T
        inside = (w > x) & (h > y) & (w <= width + 1) & (h <= height + 1)
        if inside.all() and ((x + w > width + 1) | (y + h > height + 1)).mean() > 0.2:
            self._refuse(
                f'each bbox must be [x, y, width, height] in pixels; these look like '
                f'[x1, y1, x2, y2]: {box[0].tolist()} in an image of {width[0]} x {height[0]}'
            )
        if (box >= 0).all() and (box <= 1).all() and box.any():
            self._refuse(
                f'each bbox must be [x, y, width, height] in pixels; these look like shares of '
                f'the image, 0 to 1: {box[0].tolist()}'
            )
