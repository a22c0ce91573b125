"""Before a training a sample of each data loader is looked at, and a corner of one is validated."""

import logging
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner

from mmdet.datasets.coco import transforms_of
from mmdet.datasets.files import coco_datasets
from mmdet.datasets.seeding import seeded
from mmdet.datasets.transforms import RandomCrop, RandomFlip
from mmdet.ops.modes import evaluating
from mmdet.run.ranks import bare
from mmdet.structures import DetDataSample

#: pixels of the corner's sides
CORNER = 64


def rehearse(runner: Runner, loops: dict[str, BaseLoop]) -> None:
    """Load a sample of training and validation, and detect in it what the validation would; nothing is left of that.

    Args:
        runner: about to train.
        loops: its loops by name.

    Raises:
        ValueError: samples without what training or detections need. Else what the data set, the detector or a metric
            raises.
    """
    head = getattr(bare(runner.model), 'roi_head', None)
    for name in ('train', 'val'):
        loop = loops.get(name)
        if loop is None or name == 'train' and head is None:
            continue
        try:
            with seeded(0):
                sample = loop.dataloader.dataset[0]
        except (FileNotFoundError, ValueError) as error:
            if str(error).startswith('image '):
                continue  # that is one image, which is said, or left out, when it is met
            raise type(error)(f'{name}_dataloader.dataset: {error}') from error
        key = f'{name}_dataloader.dataset.pipeline'
        if head is not None:
            with_mask = getattr(head, 'mask_head', None) is not None
            _check_sample(key, name, sample, with_mask)
            if getattr(loop, 'with_loss', False):
                _check_sample(key, 'with_loss', sample, with_mask)
        if name == 'val':
            _check_place(loop, key)
            _detect(runner, loop, sample)


def _check_sample(key: str, name: str, sample: Any, with_mask: bool) -> None:
    """Whether a sample has what a detector of mmdet asks for."""
    about = sample.get('data_samples') if isinstance(sample, dict) else None
    if name != 'val':
        objects = getattr(about, 'gt_instances', {}) if about is not None and 'gt_instances' in about else {}
        wanted = ('bboxes', 'labels', *(('masks',) if with_mask else ()))
        lacking = [f'gt_instances.{one}' for one in wanted if one not in objects]
        advice = "a dict(type='LoadAnnotations', with_bbox=True) must be among its transforms"
        if 'gt_instances.masks' in lacking:
            advice = advice.replace('True', 'True, with_mask=True')
        advice += ", and dict(type='PackDetInputs') its last one"
    else:
        wanted = ('img_id', 'ori_shape', 'img_shape', 'scale_factor')
        lacking = [one for one in wanted if about is None or one not in about]
        advice = "its last transform must be dict(type='PackDetInputs'), with these among its meta_keys"
        if lacking == ['scale_factor']:
            advice += ", and dict(type='Resize') give it"
    if not isinstance(sample, dict) or 'inputs' not in sample:
        lacking.insert(0, 'inputs')
    if lacking:
        needs = dict(train='training needs', val='detections need', with_loss='val_cfg.with_loss needs')[name]
        raise ValueError(f'{key}: its samples have no {", ".join(lacking)}, which {needs}; {advice}')


def _check_place(loop: BaseLoop, key: str) -> None:
    """Whether objects are looked for where they are annotated."""
    for dataset in coco_datasets(loop.dataloader.dataset):
        for step in transforms_of(dataset.pipeline.transforms):
            prob = getattr(step, 'prob', 1)
            if isinstance(step, RandomCrop) or isinstance(step, RandomFlip) and prob not in (0, 0.0, None):
                raise ValueError(
                    f'{key}: {type(step).__name__} changes where the objects are, and detections are compared with '
                    'those of the whole image as it is; leave it out'
                )


def _detect(runner: Runner, loop: Any, sample: Any) -> None:
    """Detect in the upper left corner, and give it to the metrics."""
    about = sample.get('data_samples') if isinstance(sample, dict) else None
    inputs = sample.get('inputs') if isinstance(sample, dict) else None
    if not isinstance(about, DetDataSample) or not isinstance(inputs, torch.Tensor) or inputs.ndim != 3:
        return  # of another toolbox
    corner = inputs[:, :CORNER, :CORNER]
    about.set_metainfo(dict(img_shape=tuple(corner.shape[1:])))
    try:
        batch = loop.dataloader.collate_fn([dict(sample, inputs=corner)])
        with evaluating(runner.model):
            loop.evaluator.process(data_samples=runner.model.val_step(batch), data_batch=batch)
    except Exception:
        print_log('validation fails: it was tried on one image before the training', 'current', logging.ERROR)
        raise
    finally:
        for metric in loop.evaluator.metrics:
            metric.results.clear()
