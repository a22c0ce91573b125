"""Fit anchors to the objects of a data set: scales and ratios whose anchors overlap the boxes best.

mmdet analyze anchors CONFIG

Boxes are taken as the training pipeline resizes them, at the middle of its scales; only widths and heights count, not
where an anchor lies. As many scales and ratios as the config has are fitted, by differential evolution (Storn and
Price, 1997).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmcv import rescale_size
from mmengine.registry import init_default_scope
from scipy.optimize import differential_evolution
from terminaltables import AsciiTable

from mmdet.config import check_config, inner_dataset, load_config, step_name
from mmdet.io.atomic import write_atomic
from mmdet.options import add_config, make_parser, number, whole
from mmdet.registry import DATASETS, TASK_UTILS

#: boxes that are compared at most, drawn from all: one more changes nothing
MOST = 20000
#: the least and greatest scale (in strides) and ratio (height over width) that are tried
SCALES, RATIOS = (0.5, 64.0), (0.1, 10.0)


def parse_args(argv=None):
    parser = make_parser(__doc__)
    add_config(parser)
    parser.add_argument(
        '--input-shape',
        nargs=2,
        type=whole(1),
        metavar=('HEIGHT', 'WIDTH'),
        help="the largest height and width that images are resized to, keeping their ratio (default: the pipeline's)",
    )
    parser.add_argument('--algorithm', choices=['differential_evolution'], default='differential_evolution')
    parser.add_argument('--iters', type=whole(1), default=100, metavar='N', help='generations at most (default: 100)')
    parser.add_argument('--seed', type=whole(0), default=0, help='(default: 0)')
    parser.add_argument(
        '--min-size', type=number(0), default=1, metavar='PX', help='smaller boxes are left out (default: 1)'
    )
    parser.add_argument('--output-dir', metavar='DIR', help='write anchor_optimize_result.json there')
    return parser.parse_args(argv)


def resized_sizes(cfg, input_shape: Sequence[int] | None = None, least: float = 1) -> np.ndarray:
    """Widths and heights (N, 2) of the boxes to learn, in pixels of the network's input.

    Raises:
        ValueError: no such box; a pipeline that does not say to which scale it resizes.
    """
    dataset = DATASETS.build(inner_dataset(cfg.train_dataloader.dataset))
    pipeline = inner_dataset(cfg.train_dataloader.dataset).get('pipeline') or []
    scale, keep_ratio = (input_shape[::-1], True) if input_shape else _scale(pipeline)
    found = []
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        size = np.array([info['width'], info['height']])
        factor = np.array(rescale_size(tuple(size), scale) if keep_ratio else scale) / size if scale else 1
        boxes = [one['bbox'] for one in info['instances'] if not one['ignore_flag']]
        if boxes:
            corners = np.array(boxes, dtype=np.float64)
            found.append((corners[:, 2:] - corners[:, :2]) * factor)
    sizes = np.concatenate(found) if found else np.zeros((0, 2))
    sizes = sizes[(sizes >= least).all(1)]
    if not len(sizes):
        raise ValueError(f'config {cfg.filename}, train_dataloader.dataset: no box of {least:g} pixels or more a side')
    return sizes


def _scale(pipeline) -> tuple:
    """The scale in the middle of those that a pipeline resizes to, None for none, and whether it keeps the ratio."""
    for step in pipeline:
        kind = step_name(step)
        if kind == 'RandomChoiceResize':
            scales = sorted((tuple(one) for one in step['scales']), key=min)
            return scales[len(scales) // 2], step.get('keep_ratio', False)
        if kind in ('Resize', 'RandomResize'):
            scale = step.get('scale')
            if scale is None and step.get('scale_factor') in (1, 1.0):
                return None, True
            if scale is None:
                raise ValueError(f'train_dataloader.dataset.pipeline: {kind} has no scale; give --input-shape')
            if isinstance(scale[0], (tuple, list)):
                scale = tuple(int(np.mean(sides)) for sides in zip(*scale))
            low, high = step.get('ratio_range') or (1, 1)
            return tuple(int(side * (low + high) / 2) for side in scale), step.get('keep_ratio', False)
    return None, True


def best_overlaps(sizes: np.ndarray, scales: np.ndarray, ratios: np.ndarray, bases: np.ndarray) -> np.ndarray:
    """The greatest intersection over union (N,) of each box with an anchor that has the same middle.

    Args:
        sizes: (N, 2), width and height.
        scales, ratios: (S,), (R,) of :class:`.AnchorGenerator`.
        bases: (L,), of the levels, in pixels.
    """
    root = np.sqrt(ratios)
    sides = (bases[:, None] * scales).reshape(-1, 1)
    width, height = (sides / root).ravel(), (sides * root).ravel()
    inside = np.minimum(sizes[:, :1], width) * np.minimum(sizes[:, 1:], height)
    return (inside / (sizes.prod(1)[:, None] + width * height - inside)).max(1)


def fit(sizes: np.ndarray, numbers: tuple[int, int], bases: np.ndarray, iterations: int, seed: int) -> tuple:
    """Scales (S,) and ratios (R,), in rising order, with the greatest mean of :func:`best_overlaps`.

    Args:
        numbers: S and R.
        iterations: generations of differential evolution, at most.
    """
    if len(sizes) > MOST:
        sizes = sizes[np.random.default_rng(seed).choice(len(sizes), MOST, replace=False)]

    def parts(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.exp(logs[: numbers[0]]), np.exp(logs[numbers[0] :])

    found = differential_evolution(
        lambda logs: -best_overlaps(sizes, *parts(logs), bases).mean(),
        [np.log(SCALES)] * numbers[0] + [np.log(RATIOS)] * numbers[1],
        maxiter=iterations,
        rng=seed,
        tol=1e-4,
    )
    return tuple(np.sort(part) for part in parts(found.x))


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg, ('train',))
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    key = 'model.rpn_head.anchor_generator'
    generator = TASK_UTILS.build(cfg.model.rpn_head.anchor_generator)
    sizes = resized_sizes(cfg, args.input_shape, args.min_size)
    bases = np.array(generator.base_sizes, dtype=np.float64)
    own = generator.scales.double().numpy(), generator.ratios.double().numpy()
    fitted = fit(sizes, (len(own[0]), len(own[1])), bases, args.iters, args.seed)
    rows = [['anchors', 'scales', 'ratios', 'mean IoU', 'above 0.5', 'above 0.7']]
    results = {}
    for name, (scales, ratios) in (('config', own), ('fitted', fitted)):
        best = best_overlaps(sizes, scales, ratios, bases)
        numbers = dict(scales=scales.round(3).tolist(), ratios=ratios.round(3).tolist(), mean_iou=float(best.mean()))
        numbers.update({f'above_{limit}': float((best > limit).mean()) for limit in (0.5, 0.7)})
        results[name] = numbers
        rows.append(
            [name, numbers['scales'], numbers['ratios'], f'{best.mean():.3f}']
            + [f'{numbers[f"above_{limit}"]:.1%}' for limit in (0.5, 0.7)]
        )
    print(AsciiTable(rows).table)
    print(f'{len(sizes)} boxes; strides {[int(base) for base in bases]}')
    print(f'--cfg-options {key}.scales="{results["fitted"]["scales"]}" {key}.ratios="{results["fitted"]["ratios"]}"')
    if args.output_dir:
        path = Path(args.output_dir) / 'anchor_optimize_result.json'
        write_atomic(json.dumps(results).encode(), path)
        print(f'written: {path}')
