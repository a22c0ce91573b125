"""Annotations as pycocotools wants them."""

import contextlib
import io

from pycocotools.coco import COCO

from mmdet.datasets.coco_file import read_coco
from mmdet.datasets.transforms.loading import valid_mask


def read_truth(path: str, backend_args: dict | None = None) -> tuple[COCO, COCO, int]:
    """Read COCO annotations as pycocotools wants them.

    Returns:
        Them for boxes; for masks, where an object that has none is a region in which detections do not count; and the
        number of such objects.

    Raises:
        FileNotFoundError, ValueError: as :func:`.read_coco`.
    """
    data = read_coco(path, backend_args)
    # Several categories of one name are one, as in training.
    same = {category['id']: category['name'] for category in data['categories']}
    last = {name: key for key, name in same.items()}
    without_mask = {}
    for i, annotation in enumerate(data['annotations'], 1):
        # What pycocotools needs and training does not.
        x, y, width, height = annotation['bbox']
        annotation['id'] = i  # 0 would mean "no object" to it
        for key, value in (('iscrowd', 0), ('area', width * height), ('category_id', None)):
            if annotation.get(key) is None:
                annotation[key] = value
        annotation['category_id'] = last.get(same.get(annotation['category_id']), annotation['category_id'])
        mask, bad = valid_mask(annotation.get('segmentation'))
        if mask is None:
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            without_mask[i] = dict(annotation, segmentation=[corners], iscrowd=1)
        elif bad:
            annotation['segmentation'] = mask
    boxes = masks = _index(data)
    if without_mask:
        masks = _index(
            dict(
                data, annotations=[without_mask.get(annotation['id'], annotation) for annotation in data['annotations']]
            )
        )
    return boxes, masks, len(without_mask)


def _index(data: dict) -> COCO:
    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
