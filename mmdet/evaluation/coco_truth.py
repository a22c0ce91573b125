"""Annotations as pycocotools wants them."""

import contextlib
import io
from collections.abc import Sequence

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


def gather_truth(truths: Sequence[dict], classes: Sequence[str]) -> dict:
    """Make the contents of a COCO annotation file of what comes with the samples.

    Args:
        truths: for each image a dict of ``img_id``, ``height``, ``width``, ``file_name`` and ``anns``, its objects:
            ``bbox`` [x1, y1, x2, y2] in pixels, ``bbox_label`` and, where they are known, ``mask`` (polygons or a
            run-length encoding) and ``ignore_flag`` (1 for a crowd).
        classes: their names by label, which becomes the category's id.

    Returns:
        ``images``, ``categories`` and ``annotations``, numbered from 1; an area is that of the box.

    Raises:
        ValueError: a label that is none of the classes'.
    """
    annotations: list[dict] = []
    for truth in truths:
        for one in truth['anns']:
            if not 0 <= one['bbox_label'] < len(classes):
                raise ValueError(
                    f'CocoMetric: image {truth["img_id"]!r}: an object has the label {one["bbox_label"]}, and the data '
                    f'set {len(classes)} classes; its metainfo.classes must name all'
                )
            x1, y1, x2, y2 = (float(value) for value in one['bbox'])
            annotation = dict(
                id=len(annotations) + 1,
                image_id=truth['img_id'],
                category_id=int(one['bbox_label']),
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1),
                iscrowd=int(one.get('ignore_flag', 0)),
            )
            mask = one.get('mask')
            if isinstance(mask, dict) and isinstance(mask['counts'], bytes):
                mask = dict(mask, counts=mask['counts'].decode())
            if isinstance(mask, (list, tuple)):
                mask = [np.asarray(polygon).tolist() for polygon in mask]
            if mask:
                annotation['segmentation'] = mask
            annotations.append(annotation)
    return dict(
        images=[
            dict(id=one['img_id'], file_name=one['file_name'], height=one['height'], width=one['width'])
            for one in truths
        ],
        categories=[dict(id=label, name=name) for label, name in enumerate(classes)],
        annotations=annotations,
    )


def _index(data: dict) -> COCO:
    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
