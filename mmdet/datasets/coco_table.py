"""COCO annotation files in flat arrays, read as a stream and kept beside large files."""

import codecs
import glob
import hashlib
import json
import mmap
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

import mmengine
import msgspec
import numpy as np
import torch
from mmengine.logging import print_log

from mmdet.io.atomic import is_whole, replace_when_done, seal, sha256

from . import coco_builder
from .coco_builder import CategoryEntry, ImageEntry, ObjectEntry, TableBuilder
from .coco_file import LARGEST, check_ann_file, read_coco

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
            (its number, the value), the first whose run-length encoding has another size than its image
            (``segmentation``: its number, what to say), and the first image whose ``file_name`` another has, too.
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
            readers = [Path(one).read_bytes() for one in (__file__, coco_builder.__file__)]
            key = hashlib.sha256(b''.join([sha256(file, before.st_size).digest(), *readers])).hexdigest()
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


class _File(msgspec.Struct, gc=False):
    images: list[ImageEntry]
    categories: list[CategoryEntry]
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
    builder = TableBuilder(path, file.images, file.categories, file.annotations is not msgspec.UNSET)
    objects = map(msgspec.json.Decoder(ObjectEntry).decode, file.annotations or ())
    while builder.add(islice(objects, 256)):  # more at a time keep the garbage collector busy
        if isinstance(data, mmap.mmap) and hasattr(mmap, 'MADV_DONTNEED'):
            data.madvise(mmap.MADV_DONTNEED)  # or all that was read of the file counts as this process's memory
    return CocoTable(*builder.build())


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
    builder = TableBuilder(path, made('images', ImageEntry), made('categories', CategoryEntry), annotated, refused)
    builder.add(made('annotations', ObjectEntry) if annotated else ())
    return CocoTable(*builder.build())
