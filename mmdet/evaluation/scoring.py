"""Precision and recall of detections by COCO's rules: hotcoco computes them, or pycocotools where there is none."""

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet.datasets.coco_table import CocoTable

from .coco_truth import make_truth


class Scores(NamedTuple):
    """Holds what an evaluation gives, -1 where there is no object to find."""

    precision: np.ndarray  # (T, R, K, A, M): IoU thresholds, recalls, classes, areas, numbers of detections
    recall: np.ndarray  # (T, K, A, M)
    iou_thrs: np.ndarray  # (T,)


class Found(NamedTuple):
    """Holds N detections."""

    image: np.ndarray  # (N,) positions in Truth.images, ascending
    category: np.ndarray  # (N,) positions in the annotation file's categories
    boxes: np.ndarray  # (N, 4) x, y, width, height in pixels
    scores: np.ndarray  # (N,)
    masks: list[dict] | None  # run-length encodings

    def items(self, truth: 'Truth', kind: str) -> list[dict]:
        """The detections in COCO's format of results, for ``kind`` 'bbox' or 'segm'."""
        keys = [key for key, _ in truth.table.categories]
        values: Any = self.masks if kind == 'segm' else self.boxes.tolist()
        name = 'segmentation' if kind == 'segm' else 'bbox'
        rows = zip(self.image.tolist(), self.category.tolist(), self.scores.tolist(), values)
        return [
            {'image_id': truth.images[image], 'category_id': keys[category], 'score': score, name: value}
            for image, category, score, value in rows
        ]


@dataclass
class Truth:
    """Holds the objects of an annotation file, ready to be compared with detections again and again."""

    table: CocoTable
    #: by kind
    _prepared: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [self.table.name(i) for i in range(len(self.table))]
        self._order = sorted(range(len(names)), key=lambda i: names[i][0])
        self._files = [names[i][1] for i in self._order]
        #: ids in ascending order, which decides between detections of one score; and the position of each
        self.images = [names[i][0] for i in self._order]
        self.place = {key: place for place, key in enumerate(self.images)}
        arrays = self.table.arrays
        #: numbers of the objects that are in an image, in the file's order, and each one's image
        self.objects = np.sort(arrays['order'])
        rank = np.empty(len(names), dtype=np.int64)
        rank[self._order] = np.arange(len(names))
        self.image = rank[self.table.owner[self.objects]]
        #: position of each category in the order of their ids
        self._rank = np.empty(len(self.table.categories), dtype=np.int64)
        self._rank[sorted(range(len(self._rank)), key=lambda i: self.table.categories[i][0])] = np.arange(
            len(self._rank)
        )
        self.without_mask = int((~self.table.masked[self.objects]).sum())

    def boxes(self) -> list[np.ndarray]:
        """Return the boxes (K, 4), x1, y1, x2, y2, of each image, without crowds."""
        arrays, plain = self.table.arrays, self.table.arrays['crowd'][self.objects] == 0
        order = self.image[plain].argsort(kind='stable')
        boxes = arrays['box'][self.objects[plain][order]].astype(float)
        boxes[:, 2:] += boxes[:, :2]
        return np.split(boxes, np.bincount(self.image[plain], minlength=len(self.images)).cumsum()[:-1])

    def masks(self) -> list[list | dict | None]:
        """Return the polygons or the run-length encoding of each of :attr:`objects`; None without one."""
        if 'masks' not in self._prepared:
            self._prepared['masks'] = [self.table.mask(i) for i in self.objects.tolist()]
        return self._prepared['masks']

    def check_masks(self, found: Found) -> None:
        """Refuse masks of objects and detections that cannot be compared; there would be no overlap.

        Raises:
            ValueError: in an image they have other sizes.
        """
        sizes = {image: mask['size'] for image, mask in zip(found.image.tolist(), found.masks or ())}
        for image, mask in zip(self.image.tolist(), self.masks()):
            size = sizes.get(image)
            if isinstance(mask, dict) and size is not None and list(mask['size']) != list(size):
                raise ValueError(
                    f'CocoMetric: image {self.images[image]!r}: the mask of an object has the size {mask["size"]} '
                    f'(height, width), that of a detection {list(size)}'
                )

    def score(
        self,
        found: Found,
        kind: str,
        images: np.ndarray,
        categories: Sequence[int],
        max_dets: Sequence[int],
        iou_thrs: Sequence[float] | None = None,
        use_cats: bool = True,
    ) -> Scores:
        """Compare detections with the objects.

        Args:
            kind: 'bbox' or 'segm'; an object without a mask is then a region in which detections do not count.
            images: positions of the images that count.
            categories: positions of the categories that count, in the order of the scores' classes.
            max_dets: numbers of detections an image, ascending.
            iou_thrs: by default 0.5 to 0.95 in steps of 0.05.
            use_cats: False: all classes are one.
        """
        module = _hotcoco()
        if module is None:
            return self._by_pycocotools(found, kind, images, categories, max_dets, iou_thrs, use_cats)
        truth = self._for_hotcoco(module, kind)
        # Where classes do not count, pycocotools goes through the detections of an image class by class.
        order = np.lexsort((self._rank[found.category], found.image))
        rows = np.column_stack([found.image, found.boxes, found.scores, self._rank[found.category]])[order].astype(
            float
        )
        if kind == 'segm' and len(rows):
            assert found.masks is not None
            masks = [found.masks[i] for i in order]
            detections = truth.load_res(rows, segmentation=masks)
            # Small, medium and large are those of masks, not of boxes.
            area = np.asarray(module.mask.area(masks), dtype=float)
            detections.update_anns(ids=np.arange(1, len(rows) + 1), area=area)
        else:
            detections = truth.load_res(rows)
        evaluation = module.COCOeval(truth, detections, kind)
        params = evaluation.params
        keys = self._rank[list(categories)].tolist()
        params.img_ids, params.cat_ids = images.tolist(), sorted(keys)
        params.max_dets, params.use_cats = list(max_dets), use_cats
        if iou_thrs is not None:
            params.iou_thrs = list(iou_thrs)
        evaluation.evaluate()
        evaluation.accumulate()
        return _in_order(evaluation.eval, params.iou_thrs, keys, use_cats)

    def _for_hotcoco(self, module: Any, kind: str) -> Any:
        """Objects of a category, whose id is its :attr:`_rank`; the images' ids are their positions."""
        if kind in self._prepared:
            return self._prepared[kind]
        arrays = self.table.arrays
        ranks = np.append(self._rank, -1)[arrays['category'][self.objects]]
        chosen = ranks.argsort(kind='stable')
        chosen = chosen[ranks[chosen] >= 0]
        own = self.objects[chosen]
        boxes, crowd = arrays['box'][own].astype(float), arrays['crowd'][own].astype(int)
        options: dict[str, Any] = {}
        if kind == 'segm':
            known = self.masks()
            options['segmentation'] = masks = [known[i] for i in chosen]
            for i, mask in enumerate(masks):
                if mask is None:
                    x, y, width, height = boxes[i].tolist()
                    masks[i] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
                    crowd[i] = 1
        sides = zip(arrays['height'][self._order].tolist(), arrays['width'][self._order].tolist())
        self._prepared[kind] = module.COCO.from_arrays(
            [
                dict(id=i, file_name=name, height=height, width=width)
                for i, (name, (height, width)) in enumerate(zip(self._files, sides))
            ],
            [dict(id=i, name=str(i)) for i in range(len(self._rank))],
            self.image[chosen],
            ranks[chosen],
            boxes,
            area=arrays['area'][own].astype(float),
            iscrowd=crowd,
            **options,
        )
        return self._prepared[kind]

    def _by_pycocotools(
        self,
        found: Found,
        kind: str,
        images: np.ndarray,
        categories: Sequence[int],
        max_dets: Sequence[int],
        iou_thrs: Sequence[float] | None,
        use_cats: bool,
    ) -> Scores:
        if 'pycocotools' not in self._prepared:
            self._prepared['pycocotools'] = make_truth(self.table)
        truth = self._prepared['pycocotools'][int(kind == 'segm')]
        items = found.items(self, kind)
        keys = [self.table.categories[number][0] for number in categories]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(truth, truth.loadRes(items) if items else COCO(), kind)
            params = evaluation.params
            params.catIds, params.imgIds = list(keys), [self.images[i] for i in images.tolist()]
            params.maxDets, params.useCats = list(max_dets), int(use_cats)
            if iou_thrs is not None:
                params.iouThrs = np.array(iou_thrs)
            evaluation.evaluate()
            evaluation.accumulate()
        return _in_order(evaluation.eval, params.iouThrs, keys, use_cats)


def _in_order(found: dict, iou_thrs: Any, keys: list, use_cats: bool) -> Scores:
    """Scores whose classes, which an evaluation sorts, are in the order of ``keys``."""
    order = [sorted(keys).index(key) for key in keys] if use_cats else [0]
    return Scores(found['precision'][:, :, order], found['recall'][:, order], np.asarray(iou_thrs))


@cache
def _hotcoco() -> Any:
    try:
        import hotcoco  # takes a while
    except ImportError as error:
        print_log(f'AP is computed by pycocotools, which is slow: {error}', 'current', logging.WARNING)
        return None
    return hotcoco
