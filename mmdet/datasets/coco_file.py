"""COCO annotation files: read, and checked."""

import json
import os
import reprlib
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import mmengine
import numpy as np

from .transforms.loading import other_size, rle_problem

#: pixels; no side of an image and no coordinate is larger
LARGEST = 2**20
#: pixels around a polygon; pycocotools takes over 100 bytes for each when it draws it
LONGEST = 2**22


def check_ann_file(path: str) -> None:
    """Raise FileNotFoundError if ``path`` is a local file that is not there."""
    if '://' not in path and not os.path.isfile(path):
        raise FileNotFoundError(f'ann_file {path}: no such file; expected COCO annotations (see INSTALL.md)')


def read_coco(path: str, backend_args: dict | None = None) -> dict:
    """Read the contents of a COCO annotation file, and check them.

    Returns:
        The lists ``images``, ``annotations`` (missing in a file of images that nobody has annotated) and
        ``categories``, and whatever else the file has. Boxes are [x, y, width, height] in pixels; heights and widths of
        images are int. Single numbers that the file has as texts are numbers.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, or without the lists ``images`` and ``categories`` and what they must hold; two images or
            categories with one id; a number that is none, or beyond :data:`LARGEST`.
    """
    check_ann_file(path)
    try:
        data = json.loads(mmengine.fileio.get(path, backend_args=backend_args))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'ann_file {path}: not JSON ({error})') from None
    check_coco(path, data)
    return data


class Fault(NamedTuple):
    """Something in an annotation file that keeps it from being read."""

    #: the list that it is in, '' of the file as a whole
    key: str
    number: int
    text: str
    #: only where masks are used
    masks: bool = False


def check_coco(path: str, data: Any) -> None:
    """Check the contents of a file that is to be read, or written, at ``path``; ValueError as :func:`read_coco`."""
    for fault in faults(data):
        if not fault.masks:
            raise ValueError(f'ann_file {path}: {fault.text}')


def faults(data: Any) -> Iterator[Fault]:
    """All that is wrong with the contents of a file; numbers that are texts become numbers on the way."""
    if not isinstance(data, dict):
        yield Fault(
            '',
            0,
            "not in COCO's format: expected an object with the keys 'images', 'annotations' and 'categories', found a "
            f'{type(data).__name__}',
        )
        return
    bad: set[tuple[str, int]] = set()

    def kept(key: str) -> Iterator[tuple[int, dict]]:
        return ((i, item) for i, item in enumerate(data.get(key, ())) if (key, i) not in bad)

    for key in FIELDS:
        if not isinstance(data.get(key), list) and (key in data or key != 'annotations'):
            yield Fault('', 0, f"not in COCO's format: the list '{key}' is missing; it has {sorted(data)}")
            return
    for key, find in (
        *((key, _structure(key, data.get(key, ()))) for key in FIELDS),
        ('images', _id_faults('images', kept('images'), 'file_name')),
        ('images', _size_faults(kept('images'))),
        ('categories', _id_faults('categories', kept('categories'), 'name')),
    ):
        for fault in find:
            bad.add((key, fault.number))
            yield fault
    sizes = {image['id']: (image['height'], image['width']) for _, image in kept('images')}
    categories = {category['id'] for _, category in kept('categories')}
    coordinates = _Coordinates()
    for i, annotation in kept('annotations'):
        try:
            _check_annotation(annotation, sizes, categories)
        except ValueError as error:
            yield Fault('annotations', i, f'{place(i, annotation)}: {error}')
        else:
            yield from coordinates.add(i, annotation)
            mask, size = annotation.get('segmentation'), sizes.get(annotation['image_id'])
            if isinstance(mask, dict) and size is not None and tuple(mask['size']) != size:
                yield Fault(
                    'annotations',
                    i,
                    f'{place(i, annotation)}: segmentation {other_size(mask["size"], size)}',
                    masks=True,
                )
    yield from coordinates.check()


#: what the entries of each list must have
FIELDS = dict(
    images=('id', 'file_name', 'height', 'width'), annotations=('image_id', 'bbox'), categories=('id', 'name')
)


def _structure(key: str, items: Sequence) -> Iterator[Fault]:
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            yield Fault(key, i, f"not in COCO's format: {key}[{i}] is no object but {item!r}")
        else:
            lacking = next((field for field in FIELDS[key] if field not in item), None)
            if lacking:
                yield Fault(key, i, f"not in COCO's format: {key}[{i}] has no {lacking!r}")


def place(index: int, annotation: dict) -> str:
    """Say where an annotation is in its file."""
    return f'annotations[{index}]' + (f' (id {reprlib.repr(annotation["id"])})' if 'id' in annotation else '')


def number(value: Any) -> int | float | None:
    """Return a number as it is, that of a text, and None of anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return None if isinstance(value, bool) or not isinstance(value, (int, float)) else value


def refer(value: Any, ids: Container) -> Any:
    """Return which of ``ids``, all numbers or all texts, is meant by ``value``, or ``value``: 1 and '1' are one."""
    if value in ids or value is None:
        return value
    try:
        other = int(value) if isinstance(value, str) else str(value)
    except ValueError:
        return value
    return other if other in ids else value


def _id_faults(key: str, items: Iterable[tuple[int, dict]], name: str) -> Iterator[Fault]:
    seen: dict = {}
    first: tuple[int, Any] | None = None
    for i, item in items:
        if isinstance(item['id'], float) and item['id'].is_integer():
            item['id'] = int(item['id'])
        if not isinstance(item[name], str):
            yield Fault(key, i, f'{key}[{i}]: {name} must be a text, got {item[name]!r}')
        elif not isinstance(item['id'], (int, str)) or isinstance(item['id'], bool):
            yield Fault(key, i, f'{key}[{i}]: id must be a number or a text, got {item["id"]!r}')
        elif item['id'] in seen:
            before, other = seen[item['id']]
            yield Fault(
                key,
                i,
                f'{key}[{before}] ({other}) and {key}[{i}] ({item[name]}) have the same id {item["id"]!r}; ids must '
                'differ',
            )
        elif first is not None and isinstance(item['id'], str) != isinstance(first[1], str):  # they are sorted
            yield Fault(
                key,
                i,
                f'{key}[{first[0]}] has the id {first[1]!r} and {key}[{i}] {item["id"]!r}; ids must be all numbers or '
                'all texts',
            )
        else:
            first = first or (i, item['id'])
            seen[item['id']] = i, item[name]


def _size_faults(images: Iterable[tuple[int, dict]]) -> Iterator[Fault]:
    for i, image in images:
        if not image['file_name']:
            yield Fault('images', i, f'images[{i}]: file_name is empty')
            continue
        for key in ('height', 'width'):
            value = number(image[key])
            if value is None or not (1 <= value <= LARGEST and value == int(value)):
                yield Fault(
                    'images',
                    i,
                    f'images[{i}] ({image["file_name"]}): {key} must be a whole number of pixels from 1 to {LARGEST}, '
                    f'got {image[key]!r}; mmdet data check --fix takes sizes from the images',
                )
                break
            image[key] = int(value)


def _check_annotation(annotation: dict, sizes: dict, categories: set) -> None:
    """All but the values of coordinates, which :class:`_Coordinates` looks at together."""
    box = annotation['bbox']
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
        raise ValueError(f'bbox must be [x, y, width, height] in pixels, got {reprlib.repr(box)}')
    for key, ids in (('image_id', sizes), ('category_id', categories)):
        value = annotation.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, (bool, float, list, dict)) or value is None and key == 'image_id':
            raise ValueError(f'{key} must be a number or a text, got {reprlib.repr(value)}')
        annotation[key] = refer(value, ids)
    if annotation.get('area') is not None:
        area = number(annotation['area'])
        if area is None or not abs(area) <= LARGEST**2:
            raise ValueError(f'area must be a number of pixels, got {reprlib.repr(annotation["area"])}')
        annotation['area'] = area
    for key in ('iscrowd', 'ignore'):
        value = annotation.get(key)
        flag = value if isinstance(value, bool) else number(value)
        if value is not None and flag not in (0, 1):
            raise ValueError(f'{key} must be 0 or 1, got {reprlib.repr(value)}')
        annotation[key] = bool(flag)
    mask = annotation.get('segmentation')
    if isinstance(mask, dict):
        problem = rle_problem(mask)
        if problem:
            raise ValueError(f'segmentation {problem}')
    elif mask and not (isinstance(mask, list) and all(isinstance(polygon, list) for polygon in mask)):
        raise ValueError(
            f'segmentation must be a list of polygons [[x1, y1, x2, y2, ...], ...] or a '
            f'run-length encoding, got {reprlib.repr(mask)}'
        )


def outline(polygon: np.ndarray) -> float:
    """Compute how far it is around a polygon, in pixels, the longer of both directions at each step.

    Args:
        polygon: (2 K,).
    """
    points = polygon.reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, 0)).max(1).sum())


class _Coordinates:
    """Looks at the numbers of boxes and polygons, a million at a time; one by one only to name what is wrong."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, dict]] = []
        self.values = array('d')

    def add(self, index: int, annotation: dict) -> Iterator[Fault]:
        mask = annotation.get('segmentation')
        try:
            values = list(annotation['bbox'])
            if isinstance(mask, list):
                for polygon in mask:
                    values += polygon
                    # no step is longer than all coordinates are apart
                    if (
                        polygon
                        and len(polygon) * (max(polygon) - min(polygon)) > LONGEST
                        and outline(np.array(polygon[: len(polygon) // 2 * 2], dtype=float)) > LONGEST
                    ):
                        text = f'segmentation is a polygon with an outline of more than {LONGEST} pixels'
                        yield Fault('annotations', index, f'{place(index, annotation)}: {text}')
                        return
            self.values.extend(values)
        except (TypeError, OverflowError):  # a polygon with text in it, a number of 400 digits
            yield from self._named(index, annotation)
            return
        self.waiting.append((index, annotation))
        if len(self.values) > 1 << 20:
            yield from self.check()

    def check(self) -> Iterator[Fault]:
        values = np.frombuffer(self.values)
        if len(values) and not (np.abs(values) <= LARGEST).all():
            for index, annotation in self.waiting:
                yield from self._named(index, annotation)
        del values  # an array that is looked at cannot grow
        self.waiting, self.values = [], array('d')

    def _named(self, index: int, annotation: dict) -> Iterator[Fault]:
        mask = annotation.get('segmentation')
        parts = [('bbox', annotation['bbox'])] + [
            (f'segmentation[{k}]', polygon) for k, polygon in enumerate(mask if isinstance(mask, list) else ())
        ]
        for key, numbers in parts:
            for value in numbers:
                if not isinstance(value, (int, float)) or not -LARGEST <= value <= LARGEST:
                    yield Fault(
                        'annotations',
                        index,
                        f'{place(index, annotation)}: {key} must hold numbers of pixels, at most {LARGEST}, got '
                        f'{reprlib.repr(value)} in {reprlib.repr(numbers)}',
                    )
                    return
