"""Annotations as pycocotools wants them."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO

from mmdet.datasets.coco_table import CocoTable


def make_truth(table: CocoTable) -> tuple[COCO, COCO, int]:
    """Make of an annotation file what pycocotools evaluates against.

    Returns:
        It for boxes; for masks, where an object that has none is a region in which detections do not count; and the
        number of such objects.
    """
    arrays = table.arrays
    images = [table.name(i) for i in range(len(table))]
    owner = table.owner
    keys = [key for key, _ in table.categories] + [None]
    columns = [arrays[name].tolist() for name in ('box', 'area', 'category', 'crowd')]
    boxes, without_mask = [], {}
    for i in np.sort(arrays['order']).tolist():
        box, area, category, crowd = (column[i] for column in columns)
        mask = table.mask(i)
        annotation = dict(
            id=i + 1,  # 0 would mean "no object" to it
            image_id=images[owner[i]][0],
            category_id=keys[category],
            bbox=box,
            area=area,
            iscrowd=int(crowd),
            segmentation=mask or [],
        )
        if mask is None:
            x, y, width, height = box
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            without_mask[i] = dict(annotation, segmentation=[corners], iscrowd=1)
        boxes.append(annotation)
    data = dict(
        images=[
            dict(id=key, file_name=name, height=height, width=width)
            for (key, name), height, width in zip(images, arrays['height'].tolist(), arrays['width'].tolist())
        ],
        categories=[
            dict(id=key, name=name, supercategory=above)
            for (key, name), above in zip(table.categories, table.supercategories)
        ],
        annotations=boxes,
    )
    truth = masks = _index(data)
    if without_mask:
        masks = _index(dict(data, annotations=[without_mask.get(one['id'] - 1, one) for one in boxes]))
    return truth, masks, len(without_mask)


def _index(data: dict) -> COCO:
    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
