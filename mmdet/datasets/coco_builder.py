"""The entries of COCO annotation files, put into flat arrays."""

import json
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from .coco_file import LARGEST, LONGEST, outline, refer
from .transforms.loading import other_size, rle_problem


class ImageEntry(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    height: float
    width: float


class CategoryEntry(msgspec.Struct, gc=False):
    id: int | str
    name: str
    supercategory: Any = None


class ObjectEntry(msgspec.Struct, gc=False):
    image_id: int | str
    bbox: tuple[float, float, float, float]
    category_id: int | str | None = None
    area: float | None = None
    iscrowd: int | float | bool | None = None
    ignore: int | float | bool | None = None
    segmentation: list[list[float]] | dict | None = None


class TableBuilder:
    """Fills the arrays of a :class:`.CocoTable`; raises ValueError where :func:`.read_coco` would refuse the file."""

    def __init__(
        self,
        path: str,
        images: Sequence[ImageEntry],
        categories: Sequence[CategoryEntry],
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
        self.strays: dict[str, dict[int | str | None, int]] = dict(image_id={}, category_id={}, segmentation={})
        self.image, self.category, self.spoilt = array('i'), array('i'), array('i')
        self.box, self.area, self.floats, self.hundredths = array('d'), array('d'), array('d'), array('i')
        self.crowd, self.ignored, self.rle = array('B'), array('B'), array('B')
        self.polygons_end, self.rle_end = array('q'), array('q')
        self.floats_end, self.hundredths_end = array('q'), array('q')

    def add(self, objects: Iterable[ObjectEntry]) -> int:
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
                if rle_problem(one.segmentation):
                    raise ValueError
                own = one.segmentation['size']
                if size is not None and tuple(own) != size and not self.strays['segmentation']:
                    self.strays['segmentation'][f'segmentation {other_size(own, size)}'] = len(self.spoilt)
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

    def build(self) -> tuple:
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
        return arrays, self.categories, self.supercategories, self.annotated, strays

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
