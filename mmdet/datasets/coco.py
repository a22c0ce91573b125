"""Data sets in COCO's format."""
import json
import logging
import os
from collections import Counter, defaultdict
from typing import Optional

import mmengine
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from mmdet.registry import DATASETS

from .transforms.loading import valid_mask

COCO_CLASSES = (
    'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat', 'traffic light',
    'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat', 'dog', 'horse', 'sheep', 'cow', 'elephant',
    'bear', 'zebra', 'giraffe', 'backpack', 'umbrella', 'handbag', 'tie', 'suitcase', 'frisbee', 'skis', 'snowboard',
    'sports ball', 'kite', 'baseball bat', 'baseball glove', 'skateboard', 'surfboard', 'tennis racket', 'bottle',
    'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple', 'sandwich', 'orange', 'broccoli',
    'carrot', 'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch', 'potted plant', 'bed', 'dining table', 'toilet',
    'tv', 'laptop', 'mouse', 'remote', 'keyboard', 'cell phone', 'microwave', 'oven', 'toaster', 'sink',
    'refrigerator', 'book', 'clock', 'vase', 'scissors', 'teddy bear', 'hair drier', 'toothbrush')
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
            hold.
    """
    check_ann_file(path)
    try:
        data = json.loads(mmengine.fileio.get(path, backend_args=backend_args))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
    for i, annotation in enumerate(data['annotations']):
        box = annotation['bbox']
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
            raise ValueError(f"ann_file {path}: annotations[{i}]: bbox must be [x, y, width, height] in pixels, got "
                             f'{box!r}')
    return data


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
        pipeline, test_mode, indices, serialize_data, max_refetch, backend_args: as in mmengine's BaseDataset.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_coco`; a class that the file does not have.
    """

    METAINFO = dict(classes=COCO_CLASSES)

    def __init__(self, *args, backend_args: Optional[dict] = None, **kwargs) -> None:
        self.backend_args = backend_args
        super().__init__(*args, **kwargs)

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
        inside = (min(x + width, image['width']) - max(x, 0), min(y + height, image['height']) - max(y, 0))
        if min(inside) <= 0 or width < 1 or height < 1 or annotation.get('area', 1) <= 0:
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
