"""What could stop or spoil a run hours later is looked at before its first iteration: places that must agree."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.logging import print_log
from mmengine.optim import MultiStepParamScheduler, ReduceOnPlateauParamScheduler
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner

from mmdet.config.text import differences
from mmdet.datasets import CocoDataset
from mmdet.datasets.coco import transforms_of
from mmdet.datasets.coco_table import CocoTable
from mmdet.datasets.files import check_files, coco_datasets
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.coco_metric import NO_TRUTH
from mmdet.run.ranks import bare
from mmdet.words import nearest

from .rehearsal import rehearse
from .schedule import misfits


def check_run(runner: Runner) -> None:
    """Look at a runner whose loops, data and schedulers are built.

    Raises:
        FileNotFoundError, ValueError: see :func:`.check_files`; an evaluator with other images, classes or kinds of
            results than there will be; data sets for training and validation with other classes; nothing to iterate
            over; a number to save the best checkpoint by, or to stop by, that there is not; an interval that is none.

    Of a training as :func:`.rehearse`, too.
    """
    loops = {name: getattr(runner, f'_{name}_loop') for name in ('train', 'val', 'test')}
    built = {name: loop for name, loop in loops.items() if isinstance(loop, BaseLoop)}
    for name, loop in built.items():
        _check_loader(name, loop)
        if name != 'train':
            _check_evaluator(name, loop, runner)
    if 'train' in built:
        _check_classes(built)
        _check_annotations(built['train'], runner)
        _check_numbers(runner, built.get('val'))
        _check_intervals(runner, built['train'])
        for text in misfits(runner):
            _warn(text)
    for loop in built.values():
        for dataset in coco_datasets(loop.dataloader.dataset):
            check_files(dataset)
    if 'train' in built:
        rehearse(runner, built)


def _warn(text: str) -> None:
    print_log(text, 'current', logging.WARNING)


def _check_loader(name: str, loop: BaseLoop) -> None:
    loader = loop.dataloader
    try:
        length = len(loader)
    except TypeError:  # an endless one
        return
    if length == 0:
        raise ValueError(
            f'{name}_dataloader: {len(loader.dataset)} images make no batch of '
            f'{getattr(loader.batch_sampler, "batch_size", loader.batch_size)} (drop_last); nothing to iterate over'
        )


def _metrics(evaluator: Evaluator) -> Iterator[CocoMetric]:
    yield from (one for one in evaluator.metrics if isinstance(one, CocoMetric))


def _check_evaluator(name: str, loop: Any, runner: Runner) -> None:
    model = bare(runner.model)
    head = getattr(model, 'roi_head', None)
    datasets = list(coco_datasets(loop.dataloader.dataset))
    for metric in _metrics(loop.evaluator):
        if 'segm' in metric.metrics and head is not None and getattr(head, 'mask_head', None) is None:
            raise ValueError(
                f"{name}_evaluator.metric: 'segm' needs masks, and this detector predicts none; set it to 'bbox', or "
                'take a detector with a mask head'
            )
        if 'segm' in metric.metrics and metric.table is not None and 'segmentation' in metric.table.strays:
            number, text = metric.table.strays['segmentation']
            raise ValueError(
                f"{name}_evaluator.ann_file {metric.ann_file}: annotations[{number}]: {text}; with metric='bbox' masks "
                'are left out'
            )
        for dataset in datasets:
            _check_truth(name, dataset, metric)
    ids = Counter(key for dataset in datasets for key, _, _ in _images(dataset)) if len(datasets) > 1 else {}
    twice = next((key for key, count in ids.items() if count > 1), None)
    if twice is not None:
        raise ValueError(
            f'{name}_dataloader: two of its data sets have an image with the id {twice!r}; their detections would be '
            'taken for those of one'
        )


def _images(dataset: CocoDataset) -> Iterator[tuple]:
    """Id, file_name and (height, width) of each image."""
    images = dataset.images
    if images is not None:
        table = images.table
        for i in images.chosen:
            yield *table.name(i), (int(table.arrays['height'][i]), int(table.arrays['width'][i]))


def _check_truth(name: str, dataset: CocoDataset, metric: CocoMetric) -> None:
    images, table = dataset.images, metric.table
    if table is None:
        packs = [one for one in transforms_of(dataset.pipeline.transforms) if isinstance(one, PackDetInputs)]
        if packs and not any('instances' in one.meta_keys for one in packs):
            raise ValueError(f'{name}_evaluator: {NO_TRUTH}')
        return
    if images is None or images.table is table:
        return
    sides = zip(table.arrays['height'].tolist(), table.arrays['width'].tolist())
    known = {key: (file, size) for (key, file), size in zip(map(table.name, range(len(table))), sides)}
    for key, file, size in _images(dataset):
        if known.get(key) != (file, size):
            raise ValueError(
                f'{name}_evaluator.ann_file {metric.ann_file} is of other images than '
                f'{name}_dataloader.dataset.ann_file {dataset.ann_file}: for the id {key!r} this one has '
                f'{_shown(file, size)}, the evaluator {_shown(*known.get(key, ()))}. Set both to one file'
            )
    other = _other_objects(images, table) if table.annotated and images.table.annotated else 0
    if other:
        _warn(
            f'{name}_evaluator.ann_file {metric.ann_file}: for {other} of the {len(images)} images it has other '
            f'objects than {name}_dataloader.dataset.ann_file {dataset.ann_file}; is it the same file that is meant?'
        )


def _other_objects(images: Any, table: CocoTable) -> int:
    """How many of ``images`` have other boxes in ``table``."""
    places = {table.name(i)[0]: i for i in range(len(table))}
    number = 0
    for i in images.chosen:
        here, there = (
            np.sort(one.arrays['box'][one.part('order', at)], axis=0)
            for one, at in ((images.table, i), (table, places[images.table.name(i)[0]]))
        )
        number += not np.array_equal(here, there)
    return number


def _shown(file: str = '', size: tuple = ()) -> str:
    return f'{file} of {size[1]} x {size[0]}' if file else 'no image'


def _check_annotations(loop: Any, runner: Runner) -> None:
    """Whether training loads what the model learns."""
    head = getattr(bare(runner.model), 'roi_head', None)
    needed = dict(with_bbox=True, with_label=True, with_mask=getattr(head, 'mask_head', None) is not None)
    for dataset in coco_datasets(loop.dataloader.dataset) if head is not None else ():
        for step in transforms_of(dataset.pipeline.transforms):
            lacking = [key for key, value in needed.items() if value and getattr(step, key, True) is False]
            if isinstance(step, LoadAnnotations) and lacking:
                raise ValueError(
                    f'train_dataloader.dataset.pipeline: LoadAnnotations has {lacking[0]}=False, and the model learns '
                    f'from it; set {lacking[0]}=True'
                    + (', or take a model without a mask head' if lacking[0] == 'with_mask' else '')
                )


def _check_classes(built: dict[str, Any]) -> None:
    """Train and validate with the same labels."""
    named = [(name, loop.dataloader.dataset) for name, loop in built.items()]
    classes = [(name, list((getattr(one, 'metainfo', None) or {}).get('classes') or ())) for name, one in named]
    first = classes[0][1]
    for name, those in classes[1:]:
        if those and first and those != first:
            i = next((i for i, (a, b) in enumerate(zip(first, those)) if a != b), min(len(those), len(first)))
            raise ValueError(
                f'{name}_dataloader.dataset.metainfo.classes is not that of train_dataloader: label {i} is '
                f'{those[i : i + 1] or "none"} instead of {first[i : i + 1] or "none"}. Set both to the same'
            )


def _check_numbers(runner: Runner, loop: Any) -> None:
    """Hooks and schedulers that wait for a number of the validation."""
    metrics = list(loop.evaluator.metrics) if loop is not None else []
    if any(not isinstance(one, CocoMetric) for one in metrics):
        return  # what others return is known when they do
    names = [key for one in metrics for key in one.names()]
    with_loss = getattr(loop, 'with_loss', False)
    names += ['val_loss'] * with_loss
    wanted: list[tuple[str, str]] = []
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best and metrics:
            wanted += [('default_hooks.checkpoint.save_best', key) for key in hook.key_indicators if key != 'auto']
        elif isinstance(hook, EarlyStoppingHook):
            wanted.append(('EarlyStoppingHook.monitor', hook.monitor))
    for i, scheduler in enumerate(_schedulers(runner)):
        if isinstance(scheduler, ReduceOnPlateauParamScheduler) and scheduler.monitor != 'loss':
            wanted.append((f'param_scheduler.{i}.monitor', scheduler.monitor))
    for key, value in wanted:
        if value not in names and not (with_loss and 'loss' in value):
            raise ValueError(
                f'{key}: the validation gives no {value!r}{nearest(value, names)}; it gives '
                f'{", ".join(names) or "nothing, there is none"}'
            )


def _schedulers(runner: Runner) -> list:
    schedulers = runner.param_schedulers or []
    return [one for some in schedulers.values() for one in some] if isinstance(schedulers, dict) else list(schedulers)


#: of schedulers, some of which count when the learning rate changes first
NUMBERS = ('gamma', 'factor', 'start_factor', 'end_factor', 'power', 'eta_min', 'eta_min_ratio', 'step_size', 'T_max')


def _check_intervals(runner: Runner, loop: Any) -> None:
    by_iteration = isinstance(loop, IterBasedTrainLoop)
    unit = 'iterations' if by_iteration else 'epochs'
    most = loop.max_iters if by_iteration else loop.max_epochs
    if most < 1:
        raise ValueError(f'train_cfg.max_{"iters" if by_iteration else unit}: must be 1 or more, got {most}')
    if not isinstance(loop.val_interval, int) or loop.val_interval < 1:
        raise ValueError(f'train_cfg.val_interval: must be a number of {unit}, 1 or more, got {loop.val_interval!r}')
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.by_epoch and by_iteration:
            _warn(
                'default_hooks.checkpoint counts epochs (by_epoch=True) and train_cfg iterations: there is no '
                'checkpoint before the last iteration. Set by_epoch=False and an interval in iterations'
            )
        elif isinstance(hook, CheckpointHook) and hook.interval < 1:
            _warn(
                f'default_hooks.checkpoint.interval={hook.interval}: there is no checkpoint before the last, and a run '
                'that is killed is lost. Set 1 or more'
            )
    for i, scheduler in enumerate(_schedulers(runner)):
        for key in NUMBERS:
            if isinstance(getattr(scheduler, key, 0), str):
                raise ValueError(f'param_scheduler.{i}.{key}: must be a number, got {getattr(scheduler, key)!r}')
        if scheduler.by_epoch and by_iteration:
            _warn(
                f'param_scheduler.{i} ({type(scheduler).__name__}) counts epochs (by_epoch=True) and train_cfg '
                'iterations: the learning rate stays as it is. Set by_epoch=False and its numbers in iterations'
            )
        elif isinstance(scheduler, MultiStepParamScheduler) and scheduler.by_epoch and not by_iteration:
            if scheduler.milestones and min(scheduler.milestones) >= most:
                _warn(
                    f'param_scheduler.{i}.milestones {sorted(scheduler.milestones)}: the run has {most} {unit}, and '
                    'the learning rate does not drop'
                )


# -- what a checkpoint brings --------------------------------------------------------------------------------------

#: what a scheduler counts, or takes from the optimizer
_COUNTED = ('optimizer', 'base_values', 'last_step', '_global_step', '_last_value', 'verbose', 'best', 'num_bad_epochs')


def settings(runner: Runner) -> dict[str, Any]:
    """What optimizer and schedulers are set to, by keys of the config; of several groups of parameters each."""
    wrapper = runner.optim_wrapper
    if not hasattr(wrapper, 'param_groups') or isinstance(runner.param_schedulers, dict):
        return {}  # several optimizers
    found: dict[str, Any] = {}
    for i, group in enumerate(wrapper.param_groups):
        for key, value in group.items():
            if key == 'params' or key == 'lr' and 'initial_lr' in group:  # what a scheduler has made of that
                continue
            if isinstance(value, (int, float, bool, tuple, type(None))):
                where = '' if i == 0 else f' of group {i}'
                found[f'optim_wrapper.optimizer.{key.removeprefix("initial_")}{where}'] = value
    for i, scheduler in enumerate(_schedulers(runner)):
        for key, value in vars(scheduler).items():
            if key not in _COUNTED and isinstance(value, (int, float, str, list, tuple, Counter)):
                found[f'param_scheduler.{i}.{key.lstrip("_")}'] = (
                    sorted(value.elements()) if isinstance(value, Counter) else value
                )
    return found


def warn_of_overridden(wanted: dict[str, Any], taken: dict[str, Any], filename: str) -> None:
    """Warn of settings that are not the config's any more once a checkpoint is resumed."""
    other = [f'{key}={taken[key]} (config: {value})' for key, value in wanted.items() if taken.get(key, value) != value]
    if other:
        _warn(
            f'--resume takes from {filename} what the config says otherwise: {", ".join(other[:8])}'
            f'{f" and {len(other) - 8} more" if len(other) > 8 else ""}. To train as the config says, start anew from '
            f'the weights: load_from={filename!r} without --resume'
        )


#: of the config, what a resumed run takes from it, and of that what changes no number
_HOLDS = ('model.', 'train_dataloader.', 'optim_wrapper.', 'train_cfg.type')
_IDLE = (
    *('init_cfg', 'optim_wrapper.optimizer', 'num_workers', 'persistent_workers', 'prefetch_factor', 'pin_memory'),
    *('data_root', 'backend_args', 'cache'),
)


def warn_of_changed(runner: Runner, checkpoint: dict, filename: str) -> None:
    """Warn of what the config has otherwise than that of the run that a checkpoint is from, and that holds from now."""
    text = (checkpoint.get('meta') or {}).get('cfg')
    try:
        found = list(differences(text, runner.cfg.pretty_text)) if isinstance(text, str) else []
    except ValueError:  # of another toolbox, or with parts that are objects
        found = []
    changed = [
        one for one in found if one.startswith(_HOLDS) and not any(key in one.partition(':')[0] for key in _IDLE)
    ]
    schedulers = checkpoint.get('param_schedulers')
    if isinstance(schedulers, list) and len(schedulers) != len(_schedulers(runner)):
        changed.append(f'param_scheduler: {len(schedulers)} of them, now {len(_schedulers(runner))}')
    if changed:
        more = f' and {len(changed) - 8} more' if len(changed) > 8 else ''
        _warn(
            f'--resume: the run of {filename} had another config, and goes on with this one: '
            f'{"; ".join(one[:200] for one in changed[:8])}{more}'
        )


def compare_classes(runner: Runner, checkpoint: dict, filename: str) -> None:
    """Compare the classes that a checkpoint was trained with with the data's, unless it is only where training starts.

    Raises:
        ValueError: they are the same in another order.
    """
    training = isinstance(runner._train_loop, BaseLoop)
    loop = (
        runner._train_loop
        if training
        else next((one for one in (runner._test_loop, runner._val_loop) if isinstance(one, BaseLoop)), None)
    )
    if loop is None or training and not runner._resume:
        return
    meta = checkpoint.get('meta') or {}
    of_data = meta.get('dataset_meta')
    of_data = of_data if isinstance(of_data, dict) else {}
    trained = of_data.get('classes') or of_data.get('CLASSES') or meta.get('CLASSES') or ()
    here = (getattr(loop.dataloader.dataset, 'metainfo', None) or {}).get('classes') or ()
    if isinstance(trained, str) or not trained or not here or list(trained) == list(here):
        return
    shown = ', '.join(map(repr, list(trained)[:10])) + (', ...' if len(trained) > 10 else '')
    text = f'checkpoint {filename}: trained with the classes {shown}'
    if set(map(str, trained)) == set(here):
        raise ValueError(
            f'{text}, in another order than metainfo.classes of the data {", ".join(map(repr, here[:10]))}: each would '
            'be taken for another. Set metainfo.classes to the order of the checkpoint'
        )
    _warn(f'{text}; the data has {", ".join(map(repr, here[:10]))}{", ..." if len(here) > 10 else ""}')
