"""COCO's average precision."""

import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from pycocotools.cocoeval import COCOeval
from terminaltables import AsciiTable

from mmdet.datasets.coco_file import check_coco
from mmdet.datasets.coco_table import CocoTable, make_table, read_table
from mmdet.io.atomic import write_atomic
from mmdet.mmdetection.arguments import ArgumentError, accepts
from mmdet.registry import METRICS
from mmdet.structures.mask import encode_mask_results

from .coco_truth import gather_truth
from .recall import average_recalls
from .scoring import Found, Scores, Truth
from .summary import item_names, of_class, summarize

METRIC_NAMES = ('bbox', 'segm', 'proposal', 'proposal_fast')

#: of a metric that knows of no objects
NO_TRUTH = (
    "CocoMetric has no ann_file, and the samples come without 'instances'; give it an ann_file, or add 'instances' to "
    "PackDetInputs' meta_keys"
)


@METRICS.register_module()
@accepts('use_mp_eval', file_client_args=None, sort_categories=False)
class CocoMetric(BaseMetric):
    """Computes AP and AR of boxes, masks and proposals, as pycocotools does.

    Each image counts once, whatever the number of processes. Boxes and masks are in pixels of the original images.

    Args:
        ann_file: COCO annotations of the data set; None takes the objects that come with the samples as ``instances``,
            which PackDetInputs keeps where it is one of its ``meta_keys``. An area is then that of the box.
        metric: 'bbox', 'segm', 'proposal' (recall without classes), 'proposal_fast' (the same by
            :func:`.average_recalls`, of all objects but crowds) or a list of them.
        classwise: print a table of each class's AP, as None does too; True returns them besides, as ``NAME_precision``,
            of the last of several metrics.
        proposal_nums: numbers of detections an image at which recall is taken; AP is that with the largest.
        iou_thrs: IoU thresholds; by default 0.5 to 0.95 in steps of 0.05.
        metric_items: numbers to return, of :func:`summarize`; by default the six of AP (of proposals: AR).
        format_only: write the results as JSON and evaluate nothing; needs ``outfile_prefix``.
        outfile_prefix: results go to ``PREFIX.bbox.json``, ``PREFIX.segm.json``; objects of the samples to
            ``PREFIX.gt.json``, as COCO annotations.
        backend_args: of the annotations' file backend.
        collect_device: not used here.
        prefix: of the numbers' names; 'coco' if None.

    Raises:
        ValueError: an unknown metric or item, ``format_only`` without a prefix, images without a result.
        FileNotFoundError, ValueError: see :func:`.read_coco`; a file without annotations, but for ``format_only``; a
            data set with none of the file's classes, or with other images.

    Example:
        In the config of Mask R-CNN; a validation then returns ``coco/bbox_mAP``, ``coco/segm_mAP`` and others::

            val_evaluator = dict(
                type='CocoMetric', ann_file='data/coco/annotations/instances_val2017.json', metric=['bbox', 'segm']
            )
    """

    default_prefix = 'coco'

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = 'bbox',
        classwise: bool | None = None,
        proposal_nums: Sequence[int] = (100, 300, 1000),
        iou_thrs: float | Sequence[float] | None = None,
        metric_items: Sequence[str] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        backend_args: dict | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.metrics = [metric] if isinstance(metric, str) else list(metric)
        for name in self.metrics:
            if name not in METRIC_NAMES:
                raise ArgumentError(f'CocoMetric: metric should be one of {METRIC_NAMES}, got {name!r}')
        if format_only and outfile_prefix is None:
            raise ArgumentError('CocoMetric: format_only=True needs outfile_prefix, where the results are written')
        #: what the file says; read now, not after the first epoch
        self.table: CocoTable | None = None if ann_file is None else read_table(ann_file, backend_args)
        if self.table is not None and not self.table.annotated and not format_only:
            raise ValueError(
                f"CocoMetric: ann_file {ann_file} has no list 'annotations' to evaluate against; with format_only=True "
                'and outfile_prefix the results are written, and nothing is evaluated'
            )
        self.ann_file = ann_file
        self.classwise = classwise
        self.proposal_nums = sorted(proposal_nums)
        self.iou_thrs = None if iou_thrs is None else np.atleast_1d(np.asarray(iou_thrs, dtype=float)).tolist()
        self.metric_items = metric_items
        known = item_names(self.proposal_nums)
        for item in metric_items or ():
            if item not in known:
                raise ArgumentError(f'CocoMetric: metric item "{item}" is not supported; there are {known}')
        for key, numbers, right in (
            ('proposal_nums', self.proposal_nums, all(isinstance(one, int) and one > 0 for one in self.proposal_nums)),
            ('iou_thrs', iou_thrs, all(0 < one <= 1 for one in self.iou_thrs or ())),
        ):
            if not right:
                what = 'numbers of detections, 1 or more' if key == 'proposal_nums' else 'above 0 and at most 1'
                raise ValueError(f'CocoMetric: {key} must be {what}, got {numbers}')
        self.format_only = format_only
        self.outfile_prefix = outfile_prefix
        if outfile_prefix is not None:
            try:
                Path(outfile_prefix).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f'CocoMetric: outfile_prefix {outfile_prefix}: there can be no such folder ({error.strerror})'
                ) from None
        self.backend_args = backend_args
        self._truth: Truth | None = None

    @property
    def dataset_meta(self) -> dict | None:
        """Return the data set's metainfo; some of its ``classes`` must be categories of the file."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        classes = (meta or {}).get('classes') or ()
        names = list(classes) if self.table is None else [name for _, name in self.table.categories]
        if classes and not set(classes) & set(names):
            raise ValueError(
                f"CocoMetric: ann_file {self.ann_file} has none of the data set's classes "
                f'{", ".join(map(repr, classes[:5]))}; its categories are {", ".join(map(repr, names))}'
            )
        self._dataset_meta = meta

    def names(self) -> list[str]:
        """Return the names of the numbers that :meth:`evaluate` returns; none with ``format_only``."""
        kinds = [] if self.format_only else self.metrics
        found = [name for metric in kinds for name, _ in self._items(metric)]
        if self.classwise and set(kinds) & {'bbox', 'segm'}:
            categories = self.table.categories if self.table is not None else ()
            classes = (self.dataset_meta or {}).get('classes') or [name for _, name in categories]
            found += [f'{name}_precision' for name in classes]
        return [f'{self.prefix}/{name}' for name in found]

    def _items(self, metric: str) -> list[tuple[str, str]]:
        """The name of each number of a metric, and of :func:`summarize`."""
        wanted = self.metric_items
        if metric == 'proposal_fast':
            wanted = [f'AR@{number}' for number in self.proposal_nums]
        if wanted is None:
            start = 'AR' if metric == 'proposal' else 'mAP'
            wanted = [name for name in item_names(self.proposal_nums) if name.startswith(start)]
        return [(name if metric.startswith('proposal') else f'{metric}_{name}', name) for name in wanted]

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the detections of a batch.

        Args:
            data_batch: not used.
            data_samples: for each image a dict of ``img_id`` and ``pred_instances``: bboxes (K, 4) in pixels of the
                original image, scores (K,), labels (K,) and, for 'segm', masks: (K, H, W), or K run-length encodings;
                without an ``ann_file`` also ``ori_shape`` (H, W) and ``instances``, as
                :meth:`.CocoDataset.load_data_list` has them.

        Raises:
            ValueError: the metric is 'segm' and there are no masks; neither ``ann_file`` nor ``instances``.
        """
        for sample in data_samples:
            key = sample['img_id']
            truth = dict(img_id=key.item() if isinstance(key, np.generic) else key)  # JSON knows no NumPy
            if self.table is None:
                if 'instances' not in sample:
                    raise ValueError(NO_TRUTH)
                height, width = (int(side) for side in sample['ori_shape'])
                truth.update(
                    height=height, width=width, anns=sample['instances'], file_name=sample.get('img_path') or '?'
                )
            found = sample['pred_instances']
            result = dict(
                img_id=truth['img_id'],
                bboxes=found['bboxes'].cpu().numpy(),
                scores=found['scores'].cpu().numpy(),
                labels=found['labels'].cpu().numpy(),
            )
            if 'masks' in found:
                masks = found['masks']
                result['masks'] = masks if isinstance(masks, list) else encode_mask_results(masks.cpu().numpy())
            elif 'segm' in self.metrics:
                raise ValueError(
                    "CocoMetric: metric 'segm' needs masks, and this detector predicts none; use "
                    "metric='bbox', or a detector with a mask head"
                )
            self.results.append((truth, result))

    def evaluate(self, size: int) -> dict:
        """Evaluate the results of all processes.

        Args:
            size: number of images of the data set.

        Returns:
            In every process what :meth:`compute_metrics` returns, with ``prefix/`` in front of the names.

        Raises:
            ValueError: another number of images with results.
        """
        gathered = itertools.chain.from_iterable(all_gather_object(self.results))
        # A sampler that fills up the last round gives some images twice.
        results = list({truth['img_id']: (truth, result) for truth, result in gathered}.values())
        metrics: list[dict] = [{}]
        if len(results) != size:  # on every process: one that raises alone leaves the others waiting
            raise ValueError(f'CocoMetric: results of {len(results)} images, but the data set has {size}')
        if is_main_process():
            metrics = [{f'{self.prefix}/{key}': value for key, value in self.compute_metrics(results).items()}]
        broadcast_object_list(metrics)
        self.results.clear()
        return metrics[0]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the results of all images, and write them if there is an ``outfile_prefix``.

        Args:
            results: for each image, as :meth:`process` keeps them, a dict of what is known of it (``img_id``; without
                an ``ann_file`` also ``height``, ``width``, ``file_name`` and the objects, ``anns``) and one of what was
                found: ``img_id``, ``bboxes``, ``scores``, ``labels`` and ``masks`` (run-length encodings).

        Returns:
            Numbers by name, such as ``bbox_mAP`` or, of proposals, ``AR@100``: 0 to 1, four digits; -1 where there is
            no object to find. Nothing with ``format_only``.
        """
        pairs = sorted(results, key=lambda pair: pair[0]['img_id'])
        truth = self._load([of_image for of_image, _ in pairs])
        results = [result for _, result in pairs]
        strange = [result['img_id'] for result in results if result['img_id'] not in truth.place]
        if strange:
            raise ValueError(
                f'CocoMetric: ann_file {self.ann_file} has no image with the id {strange[0]!r}, and '
                f'{len(strange) - 1} more of the data set; give the annotations of the data set'
            )
        found = self._gather(truth, results)
        for kind in ('bbox', 'segm') if self.outfile_prefix is not None else ():
            if kind == 'bbox' or found.masks is not None:
                write_atomic(json.dumps(found.items(truth, kind)).encode(), f'{self.outfile_prefix}.{kind}.json')
        if self.format_only:
            print_log(f'results written to {Path(str(self.outfile_prefix)).parent}', 'current')
            return {}
        images = np.array([truth.place[result['img_id']] for result in results], dtype=np.int64)
        numbers = {}
        for metric in self.metrics:
            if metric == 'proposal_fast':
                numbers.update(self._recalls(truth, results))
                continue
            if metric == 'segm':
                truth.check_masks(found)
            if not len(found.scores):
                print_log(f'{metric}: no detections at all', 'current', logging.WARNING)
            scores = truth.score(
                found,
                'segm' if metric == 'segm' else 'bbox',
                images,
                [place for place in self._places if place >= 0],
                self.proposal_nums,
                self.iou_thrs,
                use_cats=metric != 'proposal',
            )
            values = summarize(scores, self.proposal_nums)
            classes = self._print(metric, values, scores)
            numbers.update({name: round(values[item], 4) for name, item in self._items(metric)}, **classes)
        return numbers

    def _recalls(self, truth: Truth, results: list[dict]) -> dict[str, float]:
        thresholds = np.array(self.iou_thrs or COCOeval(iouType='bbox').params.iouThrs)
        boxes = truth.boxes()
        objects = [boxes[truth.place[result['img_id']]] for result in results]
        found = average_recalls(objects, [result['bboxes'] for result in results], self.proposal_nums, thresholds)
        rows = [['', 'value'], *([f'AR@{number}', f'{value:.3f}'] for number, value in zip(self.proposal_nums, found))]
        print_log('\nproposal_fast\n' + AsciiTable(rows).table, MMLogger.get_current_instance())
        return {f'AR@{number}': value for number, value in zip(self.proposal_nums, found)}

    def _load(self, truths: list[dict]) -> Truth:
        if self._truth is None or self.table is None:
            table, path = self.table, self.ann_file
            if table is None:
                data = gather_truth(truths, (self.dataset_meta or {}).get('classes') or ())
                path = 'of the samples' if self.outfile_prefix is None else f'{self.outfile_prefix}.gt.json'
                check_coco(path, data)
                if self.outfile_prefix is not None:
                    write_atomic(json.dumps(data).encode(), path)
                table = make_table(path, data)
            self._truth = truth = Truth(table)
            if truth.without_mask and 'segm' in self.metrics:
                print_log(
                    f'ann_file {path}: {truth.without_mask} objects without a mask; for masks their boxes are regions '
                    'in which detections do not count',
                    'current',
                    logging.WARNING,
                )
            # Of two categories of one name one has objects.
            used = set(table.arrays['category'][truth.objects].tolist())
            names = {name: place for place, (_, name) in enumerate(table.categories)}
            names.update((name, place) for place, (_, name) in enumerate(table.categories) if place in used)
            self._classes = list((self.dataset_meta or {}).get('classes') or names)
            #: in the file's categories; -1 of a class that it does not have
            self._places = [names.get(name, -1) for name in self._classes]
        return self._truth

    def _gather(self, truth: Truth, results: list[dict]) -> Found:
        """The detections of all images, without those of classes that the file does not have."""
        number = [len(result['scores']) for result in results]
        image = np.repeat([truth.place[result['img_id']] for result in results], number).astype(np.int64)
        boxes = np.concatenate([np.zeros((0, 4)), *(result['bboxes'] for result in results)]).astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        scores = np.concatenate([np.zeros(0), *(result['scores'] for result in results)]).astype(float)
        labels = np.concatenate([np.zeros(0), *(result['labels'] for result in results)]).astype(np.int64)
        category = np.array(self._places, dtype=np.int64)[labels] if len(labels) else labels
        masks = None
        if any('masks' in result for result in results):
            masks = [mask for result in results for mask in result['masks']]
        if (category < 0).any():
            kept = np.flatnonzero(category >= 0)
            image, category, boxes, scores = (part[kept] for part in (image, category, boxes, scores))
            masks = None if masks is None else [masks[i] for i in kept]
        return Found(image, category, boxes, scores, masks)

    def _print(self, metric: str, numbers: dict, scores: Scores) -> dict[str, float]:
        """Log the tables, and return each class's AP if it is asked for: three digits, nan without an object."""
        classes = {}
        rows = [['', 'value'], *([name, f'{value:.3f}'] for name, value in numbers.items())]
        text = f'\n{metric}\n' + AsciiTable(rows).table
        if self.classwise is not False and metric != 'proposal':
            rows = [['category', 'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl']]
            there = iter(range(len(self._classes)))
            for name, place in zip(self._classes, self._places):
                if place < 0:
                    rows.append([name] + ['-'] * 6)
                    classes[f'{name}_precision'] = float('nan')
                    continue
                values = list(summarize(of_class(scores, next(there)), self.proposal_nums).values())[:6]
                rows.append([name] + ['-' if value < 0 else f'{value:.3f}' for value in values])
                classes[f'{name}_precision'] = float('nan') if values[0] < 0 else round(values[0], 3)
            text += '\n' + AsciiTable(rows).table
        print_log(text, MMLogger.get_current_instance())
        return classes if self.classwise else {}
