"""Data sets in COCO's format."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
from mmengine.logging import print_log

from mmdet.registry import DATASETS
from mmdet.words import nearest

from .base_det_dataset import BaseDetDataset
from .coco_classes import COCO_CLASSES
from .coco_file import read_coco
from .coco_table import CocoTable, make_table, read_table
from .transforms.loading import LoadAnnotations

#: what filter_cfg may have
FILTERS = {'filter_empty_gt', 'min_size'}

NO_CLASSES = (
    'metainfo.classes must be a tuple of names, or a file with one name a line, got the text {0!r}; one class is a '
    'tuple with a comma: ({0!r}, )'
)

NO_IMAGE, NO_CATEGORY = 'of no image of the file', 'of no category of the file'
BAD_BOX, NO_MASK = 'boxes without area or outside the image', 'without a mask, ignored'
#: what a file should not have
ODD = (NO_IMAGE, NO_CATEGORY, BAD_BOX, NO_MASK)


def unlearned(
    table: CocoTable, labels: np.ndarray, training: bool, masks: bool = False, smallest: int = 0
) -> Iterator[tuple[str, np.ndarray, str]]:
    """Say what becomes of the objects of a file that are not learned, or not to be found.

    Args:
        labels: of each category, and of none at the end; -1 where it is no class.
        training: else evaluation, in which odd boxes count as they are.
        masks: whether masks are trained.
        smallest: side in pixels below which images are left out.

    Yields:
        Why, which (N,) bool, each object once, and the field of the file that says so, '' where there is none. None
        without objects.
    """
    arrays = table.arrays
    owner, left = table.owner, np.ones(len(arrays['category']), dtype=bool)
    sorts: list[tuple[str, np.ndarray, str]] = [
        (NO_IMAGE, owner < 0, 'image_id'),
        (NO_CATEGORY, arrays['category'] < 0, 'category_id'),
        ('of other classes', labels[arrays['category']] < 0, ''),
    ]
    if training:
        small = np.minimum(arrays['height'], arrays['width']) < smallest
        sorts += [
            ("marked 'ignore'", arrays['ignored'], ''),
            (BAD_BOX, ~arrays['usable'], ''),
            (f'in images below min_size={smallest}', small[owner] if len(small) else left, ''),
        ]
    sorts.append(('crowds, ignored', arrays['crowd'], ''))
    if training and masks:
        sorts.append((NO_MASK, ~table.masked, ''))
    for what, those, field in sorts:
        those = those & left
        left &= ~those
        if those.any():
            yield what, those, field


def transforms_of(transforms: Iterable) -> Iterator:
    """The transforms of a pipeline, and those that they hold."""
    for one in transforms:
        yield one
        inner = getattr(one, 'transforms', ())
        yield from transforms_of(inner if isinstance(inner, (list, tuple)) else ())


class _Images(Sequence):
    """Some of a table's images as mmengine's data_list, each made when it is asked for."""

    def __init__(self, table: CocoTable, prefix: str, labels: np.ndarray, kept: np.ndarray, chosen: np.ndarray) -> None:
        self.table, self.prefix, self.labels, self.kept, self.chosen = table, prefix, labels, kept, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, item: int) -> dict: ...

    @overload
    def __getitem__(self, item: slice | np.ndarray) -> '_Images': ...

    def __getitem__(self, item):
        if not isinstance(item, (int, np.integer)):
            return _Images(self.table, self.prefix, self.labels, self.kept, self.chosen[item])
        image, table, arrays = self.chosen[item], self.table, self.table.arrays
        objects = table.part('order', image)
        objects = objects[self.kept[objects]]
        columns = (objects, arrays['box'][objects], self.labels[arrays['category'][objects]], arrays['crowd'][objects])
        instances = [
            dict(bbox=[x, y, x + width, y + height], bbox_label=label, mask=table.mask(i), ignore_flag=int(crowd))
            for i, (x, y, width, height), label, crowd in zip(*(column.tolist() for column in columns))
        ]
        key, name = table.name(image)
        return dict(
            img_id=key,
            img_path=self._path(name),
            height=int(arrays['height'][image]),
            width=int(arrays['width'][image]),
            instances=instances,
        )

    def _path(self, name: str) -> str:
        path = os.path.join(self.prefix, name)
        if '\\' in name and not os.path.exists(path):  # written on Windows
            path = os.path.join(self.prefix, name.replace('\\', '/'))
        return path

    def paths(self) -> list[str]:
        """The images' files."""
        return [self._path(self.table.name(image)[1]) for image in self.chosen]

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """The shorter side in pixels and the number of objects, of each image."""
        arrays = self.table.arrays
        shorter = np.minimum(arrays['height'], arrays['width'])[self.chosen]
        before = np.concatenate([[0], np.cumsum(self.kept[arrays['order']])])
        return shorter, np.diff(before[np.concatenate([[0], arrays['order_end']])])[self.chosen]


@DATASETS.register_module()
class CocoDataset(BaseDetDataset):
    """Gives the images and objects of a COCO annotation file, one dict for each image, to a pipeline of transforms.

    Categories may have any ids; a label is the position of the category's name in ``metainfo['classes']``. Objects of
    other categories are left out, crowds become ignored regions. A sample, ``dataset[i]``, is what the last transform
    makes; with :class:`.PackDetInputs` ``inputs``, the image (3, H, W), and ``data_samples``, a DetDataSample.

    Args:
        ann_file, data_root, data_prefix=dict(img=...): where annotations and images are.
        metainfo: ``dict(classes=(...))``; by default COCO's 80 classes.
        filter_cfg: ``filter_empty_gt=True`` leaves out images without objects, ``min_size`` images whose shorter side
            has fewer pixels; in training only.
        cache: keep what was read of a large annotation file beside it, see :func:`.read_table`.
        pipeline, test_mode, skip_broken, backend_args and others: as of :class:`.BaseDetDataset`.

    Raises:
        FileNotFoundError, ValueError: see :func:`.read_coco`; a class that the file does not have; and see
            :class:`.BaseDetDataset`.

    Example:
        Two classes of one's own in a config::

            dataset=dict(
                type='CocoDataset',
                metainfo=dict(classes=('cat', 'dog')),
                data_root='data/pets/',
                ann_file='annotations/train.json',
                data_prefix=dict(img='train/'),
                filter_cfg=dict(filter_empty_gt=True, min_size=32),
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='LoadAnnotations', with_mask=True),
                    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
                    dict(type='RandomFlip', prob=0.5),
                    dict(type='PackDetInputs'),
                ],
            )
    """

    METAINFO = dict(classes=COCO_CLASSES)
    data_list: Sequence[dict]

    def __init__(self, *args, cache: bool = True, **kwargs) -> None:
        classes = (kwargs.get('metainfo') or {}).get('classes')
        if isinstance(classes, str) and not os.path.isfile(classes):
            raise ValueError(NO_CLASSES.format(classes))
        unknown = set(kwargs.get('filter_cfg') or {}) - FILTERS if type(self) is CocoDataset else set()
        if unknown:
            name = str(min(unknown, key=str))
            raise ValueError(f'CocoDataset: filter_cfg has no {name!r}; it has {", ".join(sorted(FILTERS))}')
        self.cache = cache
        self._images: _Images | None = None
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> Sequence[dict]:
        """Read the annotation file, and log how many objects and polygons are left out and why.

        Returns:
            For each image a dict of ``img_id``, ``img_path``, ``height``, ``width`` and ``instances``, a list of dicts:
            ``bbox`` [x1, y1, x2, y2] in pixels of the image, ``bbox_label``, ``mask`` (polygons, run-length encoding or
            None) and ``ignore_flag`` (1 for a crowd). It is a list where a subclass may want to change it; else a
            sequence that makes each dict when it is asked for.
        """
        table = read_table(self.ann_file, self.backend_args, self.cache)
        if not table.annotated and not self.test_mode:
            raise ValueError(f"ann_file {self.ann_file}: the list 'annotations' is missing; there is nothing to learn")
        self.cat2label = self._labels(table.categories)
        self.cat_ids = list(self.cat2label)
        self._categories = [dict(id=key, name=name) for key, name in table.categories]
        images = self._images_of(table)
        self._account(images)
        if self._overrides('parse_data_info'):
            return self._parsed()
        return list(images) if self._overrides('full_init', 'load_data_list', 'filter_data') else images

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Make the dict of one image that :meth:`load_data_list` lists; for all of them only where it is overridden.

        Args:
            raw_data_info: the image's entry of the annotation file, ``raw_img_info`` with ``img_id``, and those of its
                objects, ``raw_ann_info``.
        """
        image, objects = raw_data_info['raw_img_info'], raw_data_info['raw_ann_info']
        data = dict(images=[image], annotations=objects, categories=self._categories)
        return self._images_of(make_table(self.ann_file, data))[0]

    def _parsed(self) -> list[dict]:
        data = read_coco(self.ann_file, self.backend_args)
        objects: dict = {image['id']: [] for image in data['images']}
        for one in data.get('annotations', ()):
            objects.get(one['image_id'], []).append(one)
        return [
            self.parse_data_info(dict(raw_img_info=dict(one, img_id=one['id']), raw_ann_info=objects[one['id']]))
            for one in data['images']
        ]

    def _overrides(self, *names: str) -> bool:
        return any(getattr(type(self), name) is not getattr(CocoDataset, name) for name in names)

    def _images_of(self, table: CocoTable) -> '_Images':
        labels = np.array([self.cat2label.get(key, -1) for key, _ in table.categories] + [-1], dtype=np.int64)
        arrays = table.arrays
        kept = (labels[arrays['category']] >= 0) & ~arrays['ignored'] & arrays['usable']
        return _Images(table, self.data_prefix.get('img') or '', labels, kept, np.arange(len(table)))

    def _account(self, images: _Images) -> None:
        """Log what becomes of the objects of the file, in numbers that add up."""
        left = np.ones(len(images.kept), dtype=bool)
        masks = any(
            isinstance(one, LoadAnnotations) and one.with_mask for one in transforms_of(self.pipeline.transforms)
        )
        if masks and 'segmentation' in images.table.strays:
            number, text = images.table.strays['segmentation']
            raise ValueError(f'ann_file {self.ann_file}: annotations[{number}]: {text}')
        smallest = (self.filter_cfg or {}).get('min_size', 0)
        parts, odd = [], False
        for what, those, field in unlearned(images.table, images.labels, not self.test_mode, masks, smallest):
            left &= ~those
            number = int(those.sum())
            example = f'annotations[{those.argmax()}]'
            if field:
                example += f': {field} {images.table.strays[field][1]!r}'
            parts.append(f' + {number} {what} ({example})')
            odd |= what in ODD or 10 * number > len(left)
        said = f'{len(images)} images, {len(left)} objects'
        if parts:
            said += f' = {left.sum()} to {"find" if self.test_mode else "learn"}{"".join(parts)}'
        if not self.test_mode and not left.any():
            said, odd = f'{said}; nothing is left to learn', True
        spoilt, empty = images.table.arrays['spoilt'][images.kept].sum(), (images.sizes()[1] == 0).sum()
        if spoilt:
            said, odd = f'{said}; {spoilt} polygons of fewer than three points left out', True
        if empty and images.table.annotated:
            said += f'; {empty} images without objects'
        if 'file_name' in images.table.strays:
            number, name = images.table.strays['file_name']
            said += f'; images[{number}] and one before it have the same file_name {name!r}'
            said, odd = said + ', and the objects of each are background in the other', True
        print_log(f'{self.ann_file}: {said}', 'current', logging.WARNING if odd else logging.INFO)

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(self.data_list, _Images):
            return super()._serialize_data()
        # What mmengine takes for pickled dicts, and makes subsets of, are positions in the table.
        self._images, self.data_list = self.data_list, []
        positions = np.arange(len(self._images), dtype=np.int64)
        return positions.view(np.uint8), np.cumsum(np.full(len(positions), positions.itemsize))

    def get_data_info(self, idx: int) -> dict:
        """Return the dict of one image, as :meth:`load_data_list` says, with ``sample_idx``."""
        self.full_init()
        if self._images is None:
            return super().get_data_info(idx)
        return dict(self._images[self.data_bytes.view(np.int64)[idx]], sample_idx=idx % len(self))

    @property
    def images(self) -> _Images | None:
        """The images in the order of the samples; None where a subclass has made dicts of its own."""
        self.full_init()
        if self._images is not None:
            return self._images[self.data_bytes.view(np.int64)]
        return self.data_list if isinstance(self.data_list, _Images) else None

    @cached_property
    def cat_img_map(self) -> dict:
        """The ids of the images in which there is an object, by the id of its category, for those that are classes."""
        table = read_table(self.ann_file, self.backend_args, self.cache)
        found: dict = {key: {} for key in self.cat_ids}
        for image, category in zip(table.owner.tolist(), table.arrays['category'].tolist()):
            key = table.categories[category][0] if category >= 0 else None
            if image >= 0 and key in found:
                found[key][table.name(image)[0]] = None
        return {key: list(images) for key, images in found.items()}

    def _labels(self, categories: Sequence[tuple]) -> dict[int | str, int]:
        classes = list(self.metainfo['classes'])
        if len(set(classes)) < len(classes):
            raise ValueError(f'metainfo.classes must be different names, got {", ".join(map(repr, classes))}')
        names = {name: key for key, name in categories}
        unknown = [name for name in classes if name not in names]
        if unknown and not (self.test_mode and len(unknown) < len(classes)):
            raise ValueError(
                f'ann_file {self.ann_file}: has no category {", ".join(map(repr, unknown[:5]))} of '
                f'metainfo.classes; its categories are {", ".join(map(repr, names)) or "none"}'
                f'{nearest(unknown[0], names)}. Set metainfo=dict(classes=(...)) of the dataset to names in the file; '
                "a class of which it just has no object belongs in its list 'categories' all the same"
            )
        if unknown:
            print_log(
                f'{self.ann_file}: has no category {", ".join(map(repr, unknown[:5]))} of metainfo.classes; there is '
                'nothing of such a class to find, and AP is the mean of the others',
                'current',
                logging.WARNING,
            )
            classes = [name for name in classes if name in names]
        in_file = [name for name in names if name in classes]
        if in_file != classes:
            print_log(
                f'{self.ann_file}: its categories are in another order ({", ".join(in_file)}) than '
                f'metainfo.classes ({", ".join(classes)}). Labels follow metainfo.classes; in mmdetection they '
                'follow the file, so a model trained there needs the classes in the order of the file',
                'current',
                logging.WARNING,
            )
        labels = {name: label for label, name in enumerate(self.metainfo['classes'])}
        return {key: labels[name] for key, name in categories if name in labels}

    def filter_data(self) -> Sequence[dict]:
        """Leave out images by ``filter_cfg``; in testing all stay.

        Returns:
            What is left of :meth:`load_data_list`'s images.

        Raises:
            ValueError: no image is left.
        """
        if self.test_mode or not self.filter_cfg:
            return self.data_list
        empty = self.filter_cfg.get('filter_empty_gt', False)
        smallest = self.filter_cfg.get('min_size', 0)
        if isinstance(self.data_list, _Images):
            shorter, objects = self.data_list.sizes()
            kept = self.data_list[(shorter >= smallest) & (objects >= int(empty))]
        else:
            kept = [
                image
                for image in self.data_list
                if (image['instances'] or not empty) and min(image['width'], image['height']) >= smallest
            ]
        if not len(kept):
            raise ValueError(
                f'ann_file {self.ann_file}: none of {len(self.data_list)} images has an object and '
                f'sides of at least {smallest} pixels (filter_cfg={self.filter_cfg})'
            )
        return kept
