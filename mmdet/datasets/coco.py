"""Data sets in COCO's format."""
import json
import logging
import os
from array import array
from collections import Counter, defaultdict
from typing import Any, Optional

import mmengine
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from mmdet.registry import DATASETS

from .transforms.loading import rle_problem, valid_mask

COCO_CLASSES = (
    'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat', 'traffic light',
    'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat', 'dog', 'horse', 'sheep', 'cow', 'elephant',
    'bear', 'zebra', 'giraffe', 'backpack', 'umbrella', 'handbag', 'tie', 'suitcase', 'frisbee', 'skis', 'snowboard',
    'sports ball', 'kite', 'baseball bat', 'baseball glove', 'skateboard', 'surfboard', 'tennis racket', 'bottle',
    'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple', 'sandwich', 'orange', 'broccoli',
    'carrot', 'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch', 'potted plant', 'bed', 'dining table', 'toilet',
    'tv', 'laptop', 'mouse', 'remote', 'keyboard', 'cell phone', 'microwave', 'oven', 'toaster', 'sink',
    'refrigerator', 'book', 'clock', 'vase', 'scissors', 'teddy bear', 'hair drier', 'toothbrush')
#: pixels; no side of an image and no coordinate is larger
LARGEST = 2**20
BAD_BOX = 'boxes without area or outside the image left out'
BAD_POLYGON = 'polygons of fewer than three points left out'


def check_ann_file(path: str) -> None:
    """FileNotFoundError if ``path`` is a local file that is not there."""
    if '://' not in path and not os.path.isfile(path):
        raise FileNotFoundError(f'ann_file {path}: no such file; expected COCO annotations (see INSTALL.md)')


def read_coco(path: str, backend_args: Optional[dict] = None) -> dict:
    """The contents of a COCO annotation file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, or without the lists ``images``, ``annotations`` and ``categories`` and what they must
            hold; two images or categories with one id; a number that is none, or beyond :data:`LARGEST`.
    """
    check_ann_file(path)
    try:
        data = json.loads(mmengine.fileio.get(path, backend_args=backend_args))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'ann_file {path}: not JSON ({error})') from None
    if not isinstance(data, dict):
        raise ValueError(f"ann_file {path}: not in COCO's format: expected an object with the keys 'images', "
                         f"'annotations' and 'categories', found a {type(data).__name__}")
    for key, fields in (('images', ('id', 'file_name', 'height', 'width')), ('annotations', ('image_id', 'bbox')),
                        ('categories', ('id', 'name'))):
        if not isinstance(data.get(key), list):
            raise ValueError(f"ann_file {path}: not in COCO's format: the list '{key}' is missing; it has "
                             f'{sorted(data)}')
        for i, item in enumerate(data[key]):
            if not isinstance(item, dict):
                raise ValueError(f"ann_file {path}: not in COCO's format: {key}[{i}] is no object but {item!r}")
            for field in fields:
                if field not in item:
                    raise ValueError(f"ann_file {path}: not in COCO's format: {key}[{i}] has no {field!r}")
    _check_images(path, data['images'])
    _check_ids(path, 'categories', data['categories'], 'name')
    sizes = {image['id']: (image['height'], image['width']) for image in data['images']}
    coordinates = _Coordinates(path)
    for i, annotation in enumerate(data['annotations']):
        try:
            _check_annotation(annotation, sizes)
        except ValueError as error:
            raise ValueError(f'ann_file {path}: annotations[{i}]: {error}') from None
        coordinates.add(i, annotation)
    coordinates.check()
    return data


def _check_ids(path: str, key: str, items: list[dict], name: str) -> None:
    seen: dict = {}
    for i, item in enumerate(items):
        if not isinstance(item[name], str):
            raise ValueError(f'ann_file {path}: {key}[{i}]: {name} must be a text, got {item[name]!r}')
        if not isinstance(item['id'], (int, str)):
            raise ValueError(f'ann_file {path}: {key}[{i}]: id must be a number or a text, got {item["id"]!r}')
        if item['id'] in seen:
            raise ValueError(f'ann_file {path}: {key}[{seen[item["id"]]}] ({items[seen[item["id"]]][name]}) and '
                             f'{key}[{i}] ({item[name]}) have the same id {item["id"]!r}; ids must differ')
        if isinstance(item['id'], str) != isinstance(items[0]['id'], str):  # they are sorted
            raise ValueError(f'ann_file {path}: {key}[0] has the id {items[0]["id"]!r} and {key}[{i}] {item["id"]!r}; '
                             'ids must be all numbers or all texts')
        seen[item['id']] = i


def _check_images(path: str, images: list[dict]) -> None:
    _check_ids(path, 'images', images, 'file_name')
    for i, image in enumerate(images):
        if not image['file_name']:
            raise ValueError(f'ann_file {path}: images[{i}]: file_name is empty')
        for key in ('height', 'width'):
            value = image[key]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not (
                    1 <= value <= LARGEST and value == int(value)):
                raise ValueError(f'ann_file {path}: images[{i}] ({image["file_name"]}): {key} must be a whole number '
                                 f'of pixels from 1 to {LARGEST}, got {value!r}')
            image[key] = int(value)


def _check_annotation(annotation: dict, sizes: dict) -> None:
    """All but the values of coordinates, which :class:`_Coordinates` looks at together."""
    box = annotation['bbox']
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
        raise ValueError(f'bbox must be [x, y, width, height] in pixels, got {_short(box)}')
    for key in ('image_id', 'category_id'):
        if not isinstance(annotation.get(key, 0), (int, str)):
            raise ValueError(f'{key} must be a number or a text, got {_short(annotation[key])}')
    area, crowd = annotation.get('area'), annotation.get('iscrowd')
    if area is not None and not (isinstance(area, (int, float)) and abs(area) <= LARGEST**2):
        raise ValueError(f'area must be a number of pixels, got {_short(area)}')
    if crowd not in (None, 0, 1):
        raise ValueError(f'iscrowd must be 0 or 1, got {_short(crowd)}')
    mask = annotation.get('segmentation')
    if isinstance(mask, dict):
        problem = rle_problem(mask, sizes.get(annotation['image_id']))
        if problem:
            raise ValueError(f'segmentation {problem}')
    elif mask and not (isinstance(mask, list) and all(isinstance(polygon, list) for polygon in mask)):
        raise ValueError(f'segmentation must be a list of polygons [[x1, y1, x2, y2, ...], ...] or a '
                         f'run-length encoding, got {_short(mask)}')


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


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
                (f'segmentation[{k}]', polygon) for k, polygon in enumerate(mask if isinstance(mask, list) else ())]
            for key, numbers in parts:
                for value in numbers:
                    if not isinstance(value, (int, float)) or not -LARGEST <= value <= LARGEST:
                        raise ValueError(f'ann_file {self.path}: annotations[{index}]: {key} must hold numbers of '
                                         f'pixels, at most {LARGEST}, got {_short(value)} in {_short(numbers)}')


@DATASETS.register_module()
class CocoDataset(BaseDataset):
    """Images and objects of a COCO annotation file.

    Categories may have any ids; a label is the position of the category's name in ``metainfo['classes']``. Objects
    of other categories are left out, crowds become ignored regions.

    Args:
        ann_file, data_root, data_prefix=dict(img=...): where annotations and images are.
        metainfo: ``dict(classes=(...))``; by default COCO's 80 classes.
        filter_cfg: ``filter_empty_gt=True`` leaves out images without objects, ``min_size`` images with a shorter
            side; in training only.
        skip_broken: in training, the largest share of images that may turn out to be unreadable. Each is logged and
            another sample taken in its place; beyond the share, and by default at the first, the error ends the run.
        pipeline, test_mode, indices, serialize_data, max_refetch, backend_args: as in mmengine's BaseDataset.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_coco`; a class that the file does not have; a share that is none.
            Of a sample: what went wrong with the image, named by its path.
    """

    METAINFO = dict(classes=COCO_CLASSES)

    def __init__(self, *args, backend_args: Optional[dict] = None, skip_broken: float = 0, **kwargs) -> None:
        if isinstance(skip_broken, bool) or not isinstance(skip_broken, (int, float)) or not 0 <= skip_broken < 1:
            raise ValueError(f'CocoDataset: skip_broken must be a share of the images from 0 to below 1, got '
                             f'{skip_broken!r}')
        self.backend_args = backend_args
        self.skip_broken = skip_broken
        self._broken = torch.zeros(0, dtype=torch.bool)
        super().__init__(*args, **kwargs)

    def full_init(self) -> None:
        super().full_init()
        if self.skip_broken and len(self._broken) != len(self):
            self._broken = torch.zeros(len(self), dtype=torch.bool).share_memory_()  # by all workers

    def prepare_data(self, idx: int) -> Any:
        """As in mmengine; None for a broken image that may be skipped."""
        if self.skip_broken and self._broken[idx]:
            return None
        try:
            return super().prepare_data(idx)
        except Exception as error:  # a pipeline can fail in any way
            path = self.get_data_info(idx)['img_path']
            text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
            kind = type(error) if type(error) in (FileNotFoundError, TypeError) else ValueError
            if path not in text:
                text = f'image {path}: {type(error).__name__}: {text}'
            if self.test_mode or not self.skip_broken:
                raise kind(text) from error
            self._broken[idx] = True
            number = int(self._broken.sum())
            text += f'; {number} of {len(self)} images are broken so far'
            if number > self.skip_broken * len(self):
                raise kind(f'{text}, more than skip_broken={self.skip_broken:g}') from error
            print_log(f'{text}, another sample is taken', 'current', logging.WARNING)
            return None

    def load_data_list(self) -> list[dict]:
        """A dict for each image: img_id, img_path, height, width, instances (bbox x1 y1 x2 y2, label, mask, ...)."""
        data = read_coco(self.ann_file, self.backend_args)
        self.cat2label = self._labels(data['categories'])
        annotations = defaultdict(list)
        for annotation in data['annotations']:
            annotations[annotation['image_id']].append(annotation)
        left_out = Counter()
        images = []
        for image in data['images']:
            prefix = self.data_prefix.get('img') or ''
            instances = [self._instance(annotation, image, left_out) for annotation in annotations.get(image['id'], ())]
            images.append(dict(
                img_id=image['id'], img_path=os.path.join(prefix, image['file_name']), height=image['height'],
                width=image['width'], instances=[instance for instance in instances if instance is not None]))
            left_out['images without objects'] += not images[-1]['instances']
        said = ', '.join(f'{number} {what}' for what, number in left_out.items() if number)
        level = logging.WARNING if any(left_out[what] for what in (BAD_BOX, BAD_POLYGON)) else logging.INFO
        print_log(f'{self.ann_file}: {len(images)} images' + (f'; {said}' if said else ''), 'current', level)
        return images

    def _labels(self, categories: list[dict]) -> dict[int, int]:
        classes = list(self.metainfo['classes'])
        names = {category['name']: category['id'] for category in categories}
        unknown = [name for name in classes if name not in names]
        if unknown:
            raise ValueError(f"ann_file {self.ann_file}: has no category {', '.join(map(repr, unknown[:5]))} of "
                             f"metainfo.classes; its categories are {', '.join(map(repr, names))}. Set "
                             'metainfo=dict(classes=(...)) of the dataset to names in the file.')
        in_file = [name for name in names if name in classes]
        if in_file != classes:
            print_log(f"{self.ann_file}: its categories are in another order ({', '.join(in_file)}) than "
                      f"metainfo.classes ({', '.join(classes)}). Labels follow metainfo.classes; in mmdetection they "
                      'follow the file, so a model trained there needs the classes in the order of the file',
                      'current', logging.WARNING)
        return {names[name]: label for label, name in enumerate(classes)}

    def _instance(self, annotation: dict, image: dict, left_out: Counter) -> Optional[dict]:
        label = self.cat2label.get(annotation.get('category_id'))
        if label is None or annotation.get('ignore', False):
            return None
        x, y, width, height = annotation['bbox']
        area = annotation.get('area')
        inside = (min(x + width, image['width']) - max(x, 0), min(y + height, image['height']) - max(y, 0))
        if min(inside) <= 0 or width < 1 or height < 1 or (area is not None and area <= 0):
            left_out[BAD_BOX] += 1
            return None
        mask, bad = valid_mask(annotation.get('segmentation'))
        left_out[BAD_POLYGON] += bad
        return dict(bbox=[x, y, x + width, y + height], bbox_label=label, mask=mask,
                    ignore_flag=int(bool(annotation.get('iscrowd', 0))))

    def filter_data(self) -> list[dict]:
        if self.test_mode or not self.filter_cfg:
            return self.data_list
        empty = self.filter_cfg.get('filter_empty_gt', False)
        smallest = self.filter_cfg.get('min_size', 0)
        kept = [image for image in self.data_list
                if (image['instances'] or not empty) and min(image['width'], image['height']) >= smallest]
        if not kept:
            raise ValueError(f'ann_file {self.ann_file}: none of {len(self.data_list)} images has an object and '
                             f'sides of at least {smallest} pixels (filter_cfg={self.filter_cfg})')
        return kept
