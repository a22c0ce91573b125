"""Detections of several trainings on the same images, as SVG: each image is in the page once."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from mmengine.registry import init_default_scope
from pycocotools import mask as coco_mask

from mmdet.config import inner_dataset
from mmdet.registry import DATASETS

#: longer side in pixels that larger images are reduced to
MAX_SIDE = 640


class Pictures:
    """The example images of a grid, with their objects.

    Args:
        dataset: config of the data set that was evaluated on.
        images: ids of the images.

    Attributes:
        wanted: ids of the images that were asked for, ``images`` those that were found.
        problem: why there are no pictures, or ''.
    """

    def __init__(self, dataset: dict, images: Sequence[str]) -> None:
        self.wanted = set(images)
        self.images: dict[str, dict] = {}
        self.problem = '' if images else 'No training has kept detections.'
        self._outlines: dict[str, str] = {}
        try:
            init_default_scope('mmdet')
            built = DATASETS.build(dataset)
            base = inner_dataset(built)
            self.classes = list(base.metainfo['classes'])
            self.labels = {int(category): label for category, label in base.cat2label.items()}
            for index in range(len(built)):
                info = built.get_data_info(index)
                if str(info['img_id']) in images:
                    self._read(str(info['img_id']), info)
            if images and not self.images:
                self.problem = 'The data set has none of the images whose detections were kept.'
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            self.problem = f'The example images cannot be shown: {error}'

    def _read(self, image: str, info: dict) -> None:
        path = Path(info['img_path'])
        pixels = cv2.imread(str(path)) if path.is_file() else None
        if pixels is None:
            raise FileNotFoundError(f'{path.parent.name}/{path.name} is not there or is no image')
        height, width = pixels.shape[:2]
        if max(height, width) > MAX_SIDE:
            scale = MAX_SIDE / max(height, width)
            pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        data = cv2.imencode('.webp', pixels, (cv2.IMWRITE_WEBP_QUALITY, 80))[1].tobytes()
        self.images[image] = dict(
            name=path.name,
            width=width,
            height=height,
            instances=info['instances'],
            uri='data:image/webp;base64,' + base64.b64encode(data).decode(),
        )

    def definitions(self) -> Markup:
        """Goes into the page before the pictures that refer to it."""
        images = ''.join(
            f'<image id="i{number}" width="{one["width"]}" height="{one["height"]}" preserveAspectRatio="none" '
            f'href="{one["uri"]}"/>'
            for number, one in enumerate(self.images.values())
        )
        return Markup(f'<svg width="0" height="0" class="defs" aria-hidden="true"><defs>{images}</defs></svg>')

    def truth(self, image: str) -> Markup:
        """The objects as annotated; ignored ones are grey."""
        shapes = self._objects(image)
        text = f'{sum(not shape["ignored"] for shape in shapes)} objects'
        return self._picture(image, [(shape, 'ig' if shape['ignored'] else 'ok') for shape in shapes], text)

    def found(self, image: str, detections: Sequence[dict], whose: str) -> Markup:
        """Detections in COCO's format of results: those that match an object, those that don't, and objects missed."""
        objects = self._objects(image)
        shapes = [
            dict(
                label=self.labels[item['category_id']],
                mask=item.get('segmentation'),
                box=item.get('bbox'),
                score=item['score'],
            )
            for item in sorted(detections, key=lambda item: -item['score'])
            if item['category_id'] in self.labels
        ]
        one = self.images[image]
        matched = match(shapes, objects, one['height'], one['width'])
        missed = [shape for number, shape in enumerate(objects) if number not in matched and not shape['ignored']]
        kinds = ['ko' if number is None else 'ig' if objects[number]['ignored'] else 'ok' for number in matched]
        text = f'{whose}: {kinds.count("ok")} right, {kinds.count("ko")} wrong, {len(missed)} missed'
        drawn = [*((shape, 'no') for shape in missed), *reversed(list(zip(shapes, kinds)))]
        return self._picture(image, drawn, text)

    def _objects(self, image: str) -> list[dict]:
        shapes = []
        for instance in self.images[image]['instances']:
            x1, y1, x2, y2 = instance['bbox']
            shapes.append(
                dict(
                    label=instance['bbox_label'],
                    mask=instance.get('mask') or None,
                    score=None,
                    box=(x1, y1, x2 - x1, y2 - y1),
                    ignored=bool(instance.get('ignore_flag')),
                )
            )
        return shapes

    def _picture(self, image: str, shapes: Sequence[tuple[dict, str]], text: str) -> Markup:
        """SVG of shapes, each with its class of the page's style, and the text under it."""
        one = self.images[image]
        number = list(self.images).index(image)
        width, height = one['width'], one['height']
        words = {'ig': 'ignored ', 'no': 'missed '}
        body = []
        for shape, kind in shapes:
            name = (
                words.get(kind, '')
                + self.classes[shape['label']]
                + ('' if shape['score'] is None else f' {shape["score"]:.2f}')
            )
            body.append(
                f'<path class="{kind}" d="{self._outline(shape, width, height)}"><title>{escape(name)}</title></path>'
            )
        label = f'{one["name"]}, {text}'
        boxes = ' class="boxes"' if all(shape['mask'] is None for shape, _ in shapes) else ''
        return Markup(
            f'<svg{boxes} viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
            f'<use href="#i{number}"/>{"".join(body)}</svg>{escape(text.rpartition(": ")[2])}'
        )

    def _outline(self, shape: dict, width: int, height: int) -> str:
        """What an SVG path draws: a mask's outline, or a box."""
        mask: Any = shape['mask']
        if mask is None:
            x, y, w, h = shape['box']
            return f'M{x:.1f} {y:.1f}h{w:.1f}v{h:.1f}h{-w:.1f}z'
        if isinstance(mask, list):  # polygons
            return ''.join(_path(np.asarray(polygon, dtype=float).reshape(-1, 2)) for polygon in mask)
        mask = _rle(mask, height, width)
        key = str(mask['counts'])
        if key not in self._outlines:
            plane = np.ascontiguousarray(coco_mask.decode(mask))
            # Twice as large, so that the outline of a thin object has an inside
            plane = cv2.resize(plane, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
            found, _ = cv2.findContours(plane, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
            self._outlines[key] = ''.join(_path(cv2.approxPolyDP(line, 1.2, True)[:, 0] / 2 + 0.25) for line in found)
        return self._outlines[key]


def _path(points: np.ndarray) -> str:
    if len(points) < 2:
        return ''
    return 'M' + ' '.join(f'{x:.4g} {y:.4g}' for x, y in points) + 'z'


def match(
    detections: Sequence[dict], objects: Sequence[dict], height: int, width: int, least: float = 0.5
) -> list[int | None]:
    """Which object each detection is, as in COCO's evaluation: the best ones choose first, each object once.

    Args:
        detections, objects: dicts with ``label``, ``mask`` (RLE or polygons, or None) and ``box`` (xywh);
            detections with the best scores first; objects with ``ignored``, which may be taken any number of times.
        least: IoU of masks, or of boxes where the detections have no masks.
    """
    if not detections or not objects:
        return [None] * len(detections)
    if all(shape['mask'] is not None for shape in [*detections, *objects]):
        sides: list = [[_rle(shape['mask'], height, width) for shape in shapes] for shapes in (detections, objects)]
    else:
        sides = [np.array([shape['box'] for shape in shapes], dtype=float) for shapes in (detections, objects)]
    overlaps = coco_mask.iou(*sides, [int(shape['ignored']) for shape in objects])
    taken: set[int] = set()
    result: list[int | None] = []
    for detection, row in zip(detections, overlaps):
        free = [
            (not shape['ignored'], row[i], i)
            for i, shape in enumerate(objects)
            if shape['label'] == detection['label'] and row[i] >= least and (shape['ignored'] or i not in taken)
        ]
        number = max(free)[2] if free else None
        if number is not None:
            taken.add(number)
        result.append(number)
    return result


def _rle(mask: Any, height: int, width: int) -> dict:
    """Run lengths of polygons, or of an RLE in either form."""
    if isinstance(mask, list):
        return coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
    return coco_mask.frPyObjects(mask, height, width) if isinstance(mask['counts'], list) else mask


def example_ids(cells: Sequence[dict]) -> list[str]:
    """Images whose detections were kept by any cell."""
    return list(dict.fromkeys(image for cell in cells for image in cell.get('detections', {})))


def first_with_detections(cells: Sequence[dict]) -> dict | None:
    """Of one norm and batch size, the cell whose detections are shown."""
    return next((cell for cell in cells if cell.get('detections')), None)
