"""Scores of saved detections, and the images that were hardest.

    mmdet test CONFIG CHECKPOINT --out PREDICTIONS.pkl
    mmdet analyze results CONFIG PREDICTIONS.pkl [SHOW_DIR]

Evaluates with the config's test_evaluator, which gives the numbers of the test again, and lists the images with the
lowest AP. The AP of an image is COCO's of its boxes as if there were no other image: the mean over IoU from 0.5 to 0.95
and over the classes of its objects; detections of other classes do not change it, and an image without objects has
none. 'right', 'missed' and 'wrong' count pairs at an IoU of 0.5, as mmdet analyze confusion does.

Pictures go to SHOW_DIR/bad, and of the images with the highest AP to SHOW_DIR/good: on the left what is annotated, on
the right what was detected.
"""

import contextlib
import io
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from terminaltables import AsciiTable

from mmdet.analysis.confusion import (
    Detections,
    Objects,
    build_test_set,
    check_images,
    confusion,
    detections,
    read_objects,
    read_samples,
)
from mmdet.config import check_config, load_config
from mmdet.datasets.transforms import LoadImageFromFile
from mmdet.datasets.transforms.loading import decode_mask, rle_problem
from mmdet.engine.hooks.visualization_hook import with_truth
from mmdet.options import add_config, make_parser, number, whole
from mmdet.run.progress import track
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer


def image_ap(objects: Objects, found: Detections) -> float | None:
    """Compute COCO's AP of the boxes of one image, of all detections and sizes, as if there were no other image.

    Returns:
        The mean over IoU thresholds from 0.5 to 0.95 and over the classes of the image's objects, 0 to 1; None where
        there is none to find.
    """
    labels = objects.labels[~objects.crowd].unique().tolist()
    if not labels:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _coco(objects.bboxes, objects.labels, iscrowd=objects.crowd.long()),
            _coco(found.bboxes, found.labels, score=found.scores),
            'bbox',
        )
        params = evaluation.params
        params.catIds, params.maxDets = labels, [max(len(found.labels), 1)]
        params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval['precision'].mean())


def _coco(bboxes: torch.Tensor, labels: torch.Tensor, **columns: torch.Tensor) -> COCO:
    """Boxes x1, y1, x2, y2 of one image for pycocotools."""
    coco = COCO()
    boxes = bboxes.double().clone()
    boxes[:, 2:] -= boxes[:, :2]
    annotations = [
        dict(id=i, image_id=1, iscrowd=0, category_id=label, bbox=box, area=box[2] * box[3])
        for i, (label, box) in enumerate(zip(labels.tolist(), boxes.tolist()), 1)
    ]
    for name, values in columns.items():
        for annotation, value in zip(annotations, values.tolist()):
            annotation[name] = value
    coco.dataset = dict(
        images=[dict(id=1)], categories=[dict(id=label) for label in labels.unique().tolist()], annotations=annotations
    )
    coco.createIndex()
    return coco


# -- the command --------------------------------------------------------------------------------------------------


def parse_args(argv=None):
    parser = make_parser(__doc__)
    add_config(parser, 'its test_dataloader and test_evaluator are used')
    parser.add_argument('prediction_path', help='what mmdet test --out has written')
    parser.add_argument('show_dir', nargs='?', help='where to write pictures (default: none are drawn)')
    parser.add_argument(
        '--topk', type=whole(1), default=20, metavar='N', help='how many images are listed and drawn (default: 20)'
    )
    parser.add_argument(
        '--show-score-thr',
        type=number(0, 1),
        default=0.3,
        help='detections below are neither counted nor drawn (default: 0.3)',
    )
    return parser.parse_args(argv)


def check_masks(path, samples, infos):
    """Raise ValueError where a mask is no run-length encoding, of which pycocotools would read past the end."""
    for key, sample in samples.items():
        masks = sample['pred_instances'].get('masks')
        if masks is None:
            continue
        number = len(sample['pred_instances']['labels'])
        if not isinstance(masks, list) or len(masks) != number or not all(isinstance(mask, dict) for mask in masks):
            raise ValueError(f'predictions {path}: image {key!r} has not {number} masks in run-length encoding')
        size = infos[key].get('height'), infos[key].get('width')
        for mask in masks:
            problem = rle_problem(mask, size if all(size) else None)
            if problem:
                raise ValueError(f'predictions {path}: image {key!r}: a mask {problem}')


def evaluate(cfg, samples, metainfo):
    """The numbers of the config's test_evaluator, by name."""
    evaluator = Runner.build_evaluator(None, cfg.test_evaluator)
    evaluator.metrics = [metric for metric in evaluator.metrics if not isinstance(metric, DumpResults)]
    evaluator.dataset_meta = metainfo
    return evaluator.offline_evaluate(list(samples.values()))


def draw(visualizer, dataset, info, sample, score_thr, out_file):
    """Write the picture of an image, the annotations on the left."""
    kept = sample['pred_instances']
    chosen = (kept['scores'] > score_thr).nonzero()[:, 0].tolist()
    # read as the test reads it, where the data set has a pipeline of its own
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    loader = next((step for step in steps if isinstance(step, LoadImageFromFile)), LoadImageFromFile())
    image = np.ascontiguousarray(loader(dict(info))['img'][..., ::-1], dtype=np.uint8)
    found = InstanceData(**{key: kept[key][chosen] for key in Detections._fields})
    if 'masks' in kept:
        masks = [decode_mask(kept['masks'][i], *image.shape[:2]) for i in chosen]
        found.masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *image.shape[:2]))
    shown = with_truth(DetDataSample(pred_instances=found), dataset.get_data_info(info['position']), image)
    visualizer.add_datasample(Path(info['img_path']).stem, image, shown, out_file=str(out_file), pred_score_thr=0)


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg, ('test',))
    dataset = build_test_set(cfg)
    infos, objects = read_objects(dataset)
    classes = dataset.metainfo['classes']
    samples = read_samples(args.prediction_path, len(classes))
    check_images(args.prediction_path, samples, infos)
    check_masks(args.prediction_path, samples, infos)
    if all(each.crowd.all() for each in objects.values()):
        raise ValueError(
            f'config {args.config}, test_dataloader.dataset: none of {len(infos)} images has an object to find, so '
            'there is nothing to score; give a config whose test set is annotated'
        )
    scores = evaluate(cfg, samples, dataset.metainfo)
    print('  '.join(f'{key}: {value:.4f}' for key, value in scores.items()))

    ranked = []
    for key in track(list(samples), 'Scoring images'):
        found = detections(samples[key])
        ap = image_ap(objects[key], found)
        if ap is not None:
            counts = confusion(objects[key], found, len(classes), args.show_score_thr, 0.5)
            right, total = counts[:-1, :-1].trace(), counts[:-1].sum()
            ranked.append((ap, right - total, infos[key]['img_path'], key, right, counts[:, :-1].sum() - right))
    ranked.sort(key=lambda each: each[:3])
    bad, good = ranked[: args.topk], ranked[args.topk :][-args.topk :][::-1]
    rows = [[path, f'{ap:.3f}', right - missed, right, -missed, wrong] for ap, missed, path, _, right, wrong in bad]
    print(AsciiTable([['image', 'AP', 'objects', 'right', 'missed', 'wrong'], *rows]).table)
    left_out = len(samples) - len(ranked)
    print(
        f'the {len(bad)} images with the lowest AP of {len(ranked)}'
        + (f'; {left_out} without objects to find have none' if left_out else '')
    )
    if args.show_dir is None:
        return
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = dataset.metainfo
    for folder, chosen in (('bad', bad), ('good', good)):
        for rank, (ap, _, path, key, *_) in enumerate(track(chosen, f'Drawing {folder}'), 1):
            out_file = Path(args.show_dir) / folder / f'{rank:03}_{ap:.3f}_{Path(path).stem}.png'
            draw(visualizer, dataset, infos[key], samples[key], args.show_score_thr, out_file)
    print(f'written: {len(bad)} pictures in {args.show_dir}/bad, {len(good)} in {args.show_dir}/good')
