"""An annotation file without what is wrong in another."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmdet.datasets.coco import BAD_BOX, NO_CATEGORY, NO_IMAGE, unlearned
from mmdet.datasets.coco_file import check_coco, faults, number
from mmdet.datasets.coco_table import CocoTable, make_table
from mmdet.io.atomic import write_atomic

from .survey import Survey, add_sizes, readable


def mend(surveyed: Survey, folder: str, out: str) -> str:
    """Write a file without what is wrong in one that was looked at; returns what was done, in words.

    What is surely meant is put right: sizes of images that the file lacks, areas, ids that count from another number,
    boxes that are [x1, y1, x2, y2], of texts, or missing beside polygons, polygons in one list or of points, categories
    by name, an image or category that is listed twice. The rest is left out.

    Raises:
        ValueError: nothing could be made of it.
    """
    path = surveyed.path
    with open(path, 'rb') as file:
        data = json.loads(file.read())
    done: Counter = Counter()
    for what, number_of in (
        ('sizes taken from images', len(add_sizes(data, folder))),
        ('objects in another form', _reshape(data)),
    ):
        done.update({what: number_of} if number_of else {})
    before = len(data.get('annotations') or ()) if isinstance(data, dict) else 0
    found = Survey(path)
    kept = readable(found, data)
    for image in _of_one_id(data):  # whose objects are whose?
        done['images of one id left out'] += 1
        kept['images'] = [one for one in kept['images'] if one['id'] != image['id']]
    if kept is None or 'annotations' not in kept:
        raise ValueError(f'ann_file {path}: {found.findings[0].examples[0] if found.findings else "no annotations"}')
    refused: list[str] = []
    make_table(path, kept, refused)
    for text in refused:
        _put_right(text, kept, done)
    table = make_table(path, kept)
    problems = dict(zip(_images(surveyed.table), (picture.problem for picture in surveyed.pictures)))
    first: dict[str, Any] = {}
    images, moved = [], {}
    for image, what in zip(kept['images'], _images(table)):
        if problems[what]:
            done['images left out (missing, unreadable or of another size)'] += 1
        elif image['file_name'] in first:
            moved[image['id']] = first[image['file_name']]
            done['images that were listed twice'] += 1
        else:
            first[image['file_name']] = image['id']
            images.append(image)
    known = {image['id'] for image in images}
    labels = np.zeros(len(table.categories) + 1, dtype=np.int64)
    labels[-1] = -1
    for i, area in enumerate(table.arrays['area']):
        if area <= 0 and min(table.arrays['box'][i, 2:]) >= 1:
            kept['annotations'][i]['area'] = float(table.arrays['box'][i, 2] * table.arrays['box'][i, 3])
            done['areas taken from boxes'] += 1
    bad = np.zeros(len(kept['annotations']), dtype=bool)
    for what, those, _ in unlearned(make_table(path, kept), labels, True):
        bad |= those & (what in (NO_IMAGE, NO_CATEGORY, BAD_BOX))
    objects, seen = [], set()
    for annotation, wrong in zip(kept['annotations'], bad):
        annotation['image_id'] = moved.get(annotation['image_id'], annotation['image_id'])
        key = (annotation['image_id'], annotation['category_id'], tuple(annotation['bbox']))
        if wrong or annotation['image_id'] not in known or key in seen:
            continue
        seen.add(key)
        mask = annotation.get('segmentation')
        if not isinstance(mask, dict):
            annotation['segmentation'] = [one for one in mask or () if len(one) >= 6 and len(one) % 2 == 0]
        annotation.update(id=len(objects) + 1, iscrowd=int(annotation['iscrowd']))
        objects.append({key: value for key, value in annotation.items() if key != 'ignore' or value})
    if len(objects) < before:
        done['objects left out'] = before - len(objects)
    written = dict(data, images=images, annotations=objects, categories=kept['categories'])
    text = json.dumps(written)
    check_coco(out, written)  # which may change it
    make_table(out, written)
    write_atomic(text.encode(), out)
    changes = ', '.join(f'{count} {what}' for what, count in done.items()) or 'nothing was wrong'
    return f'{out}: {len(images)} images, {len(objects)} objects; {changes}'


def _images(table: CocoTable | None) -> Iterator[tuple]:
    """File and size of each image."""
    if table is not None:
        sides = zip(table.arrays['height'].tolist(), table.arrays['width'].tolist())
        yield from ((table.name(i)[1], *size) for i, size in enumerate(sides))


def _reshape(data: Any) -> int:
    """Give objects that say the same in another form COCO's; returns how many."""
    lists = [data.get(key) if isinstance(data, dict) else None for key in ('annotations', 'categories')]
    annotations, categories = (one if isinstance(one, list) else [] for one in lists)
    named = [one for one in categories if isinstance(one, dict) and isinstance(one.get('name'), str) and 'id' in one]
    ids = {one['name']: one['id'] for one in named}
    known = set(map(str, ids.values()))
    changed = 0
    for one in annotations:
        if not isinstance(one, dict):
            continue
        before = dict(one)
        mask, category = one.get('segmentation'), one.get('category_id')
        if isinstance(category, str) and category not in known:
            one['category_id'] = ids.get(category, category)
        if isinstance(mask, list) and len(mask) == 1 and isinstance(mask[0], dict):
            one['segmentation'] = mask = mask[0]
        elif isinstance(mask, list) and mask:
            one['segmentation'] = mask = _polygons(mask)
        box = one.get('bbox')
        flat = None if box is None else _flat(box)
        if flat is not None and len(flat) == 4:
            one['bbox'] = flat
        elif box is None and isinstance(mask, list) and all(map(_flat, mask)) and any(mask):
            points = np.concatenate([_flat(polygon) for polygon in mask])
            low, high = points.reshape(-1, 2).min(0), points.reshape(-1, 2).max(0)
            one['bbox'] = [*low.tolist(), *(high - low).tolist()]
        changed += one != before
    return changed


def _polygons(mask: list) -> list:
    """Polygons, which may be one alone, or of points or of texts."""
    flat = _flat(mask)
    if flat is not None and not isinstance(mask[0], list):
        return [flat]
    polygons = [_flat(polygon) for polygon in mask]
    return mask if any(polygon is None or len(polygon) % 2 for polygon in polygons) else polygons


def _flat(numbers: Any) -> list | None:
    """Numbers out of lists and texts; None if there is anything else."""
    if not isinstance(numbers, list):
        value = number(numbers)
        return None if value is None else [value]
    parts = [_flat(one) for one in numbers]
    return None if any(part is None for part in parts) else [value for part in parts for value in part or ()]


def _of_one_id(data: Any) -> list[dict]:
    return [data['images'][fault.number] for fault in faults(data) if 'same id' in fault.text and fault.key == 'images']


def _put_right(text: str, data: dict, done: Counter) -> None:
    """What was refused of the file as a whole."""
    counted = re.match(r'(image_id|category_id) is counted.*(Add|Take) 1', text)
    if counted:
        for annotation in data['annotations']:
            if isinstance(annotation.get(counted[1]), int):
                annotation[counted[1]] += 1 if counted[2] == 'Add' else -1
        done[f'{counted[1]} counted from another number'] += 1
    elif 'look like [x1' in text:
        for annotation in data['annotations']:
            x, y, right, bottom = annotation['bbox']
            annotation['bbox'] = [x, y, right - x, bottom - y]
        done['boxes that were [x1, y1, x2, y2]'] += len(data['annotations'])
    elif 'have the same name' in text:
        ids: dict[str, Any] = {}
        renamed = {one['id']: ids.setdefault(one['name'], one['id']) for one in data['categories']}
        data['categories'] = [one for one in data['categories'] if renamed[one['id']] == one['id']]
        for annotation in data['annotations']:
            annotation['category_id'] = renamed.get(annotation['category_id'], annotation['category_id'])
        done['categories of one name'] += 1
    else:
        raise ValueError(f'{text}; this cannot be put right without knowing what is meant')
