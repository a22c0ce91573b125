"""COCO annotation files: read, and checked."""

import json
import os
import reprlib
from array import array
from collections.abc import Container
from typing import Any

import mmengine
import numpy as np

from .transforms.loading import rle_problem

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


def check_coco(path: str, data: Any) -> None:
    """Check the contents of a file that is to be read, or written, at ``path``; ValueError as :func:`read_coco`."""
    if not isinstance(data, dict):
        raise ValueError(
            f"ann_file {path}: not in COCO's format: expected an object with the keys 'images', "
            f"'annotations' and 'categories', found a {type(data).__name__}"
        )
    for key, fields in (
        ('images', ('id', 'file_name', 'height', 'width')),
        ('annotations', ('image_id', 'bbox')),
        ('categories', ('id', 'name')),
    ):
        if key == 'annotations' and key not in data:
            continue
        if not isinstance(data.get(key), list):
            raise ValueError(
                f"ann_file {path}: not in COCO's format: the list '{key}' is missing; it has {sorted(data)}"
            )
        for i, item in enumerate(data[key]):
            if not isinstance(item, dict):
                raise ValueError(f"ann_file {path}: not in COCO's format: {key}[{i}] is no object but {item!r}")
            for field in fields:
                if field not in item:
                    raise ValueError(f"ann_file {path}: not in COCO's format: {key}[{i}] has no {field!r}")
    _check_images(path, data['images'])
    _check_ids(path, 'categories', data['categories'], 'name')
    sizes = {image['id']: (image['height'], image['width']) for image in data['images']}
    categories = {category['id'] for category in data['categories']}
    coordinates = _Coordinates(path)
    for i, annotation in enumerate(data.get('annotations', ())):
        try:
            _check_annotation(annotation, sizes, categories)
        except ValueError as error:
            raise ValueError(f'ann_file {path}: {place(i, annotation)}: {error}') from None
        coordinates.add(i, annotation)
    coordinates.check()


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


def _check_ids(path: str, key: str, items: list[dict], name: str) -> None:
    seen: dict = {}
    for i, item in enumerate(items):
        if not isinstance(item[name], str):
            raise ValueError(f'ann_file {path}: {key}[{i}]: {name} must be a text, got {item[name]!r}')
        if isinstance(item['id'], float) and item['id'].is_integer():
            item['id'] = int(item['id'])
        if not isinstance(item['id'], (int, str)) or isinstance(item['id'], bool):
            raise ValueError(f'ann_file {path}: {key}[{i}]: id must be a number or a text, got {item["id"]!r}')
        if item['id'] in seen:
            raise ValueError(
                f'ann_file {path}: {key}[{seen[item["id"]]}] ({items[seen[item["id"]]][name]}) and '
                f'{key}[{i}] ({item[name]}) have the same id {item["id"]!r}; ids must differ'
            )
        if isinstance(item['id'], str) != isinstance(items[0]['id'], str):  # they are sorted
            raise ValueError(
                f'ann_file {path}: {key}[0] has the id {items[0]["id"]!r} and {key}[{i}] {item["id"]!r}; '
                'ids must be all numbers or all texts'
            )
        seen[item['id']] = i


def _check_images(path: str, images: list[dict]) -> None:
    _check_ids(path, 'images', images, 'file_name')
    for i, image in enumerate(images):
        if not image['file_name']:
            raise ValueError(f'ann_file {path}: images[{i}]: file_name is empty')
        for key in ('height', 'width'):
            value = number(image[key])
            if value is None or not (1 <= value <= LARGEST and value == int(value)):
                raise ValueError(
                    f'ann_file {path}: images[{i}] ({image["file_name"]}): {key} must be a whole number '
                    f'of pixels from 1 to {LARGEST}, got {image[key]!r}'
                )
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
        problem = rle_problem(mask, sizes.get(annotation['image_id']))
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

    def __init__(self, path: str) -> None:
        self.path = path
        self.waiting: list[tuple[int, dict]] = []
        self.values = array('d')

    def add(self, index: int, annotation: dict) -> None:
        self.waiting.append((index, annotation))
        mask = annotation.get('segmentation')
        try:
            self.values.extend(annotation['bbox'])
            if isinstance(mask, list):
                for polygon in mask:
                    self.values.extend(polygon)
                    # no step is longer than all coordinates are apart
                    if (
                        polygon
                        and len(polygon) * (max(polygon) - min(polygon)) > LONGEST
                        and outline(np.array(polygon[: len(polygon) // 2 * 2], dtype=float)) > LONGEST
                    ):
                        raise ValueError(
                            f'ann_file {self.path}: {place(index, annotation)}: segmentation is a polygon with '
                            f'an outline of more than {LONGEST} pixels'
                        )
        except (TypeError, OverflowError):  # a polygon with text in it, a number of 400 digits
            self._name()
        if len(self.values) > 1 << 20:
            self.check()

    def check(self) -> None:
        values = np.frombuffer(self.values)
        if len(values) and not (np.abs(values) <= LARGEST).all():
            self._name()
        self.waiting, self.values = [], array('d')

    def _name(self) -> None:
        for index, annotation in self.waiting:
            mask = annotation.get('segmentation')
            parts = [('bbox', annotation['bbox'])] + [
                (f'segmentation[{k}]', polygon) for k, polygon in enumerate(mask if isinstance(mask, list) else ())
            ]
            for key, numbers in parts:
                for value in numbers:
                    if not isinstance(value, (int, float)) or not -LARGEST <= value <= LARGEST:
                        raise ValueError(
                            f'ann_file {self.path}: {place(index, annotation)}: {key} must hold numbers of '
                            f'pixels, at most {LARGEST}, got {reprlib.repr(value)} in '
                            f'{reprlib.repr(numbers)}'
                        )
