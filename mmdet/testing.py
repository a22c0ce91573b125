"""Made-up images, objects and proposals, and parts of configs, for tests of one's own detectors and heads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from mmdet.config.names import find_config
from mmdet.models.task_modules.samplers import SamplingResult, sample_proposals
from mmdet.registry import TASK_UTILS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks


def get_detector_cfg(fname: str) -> ConfigDict:
    """Return the ``model`` of a config of this repository, such as 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'."""
    return Config.fromfile(find_config(fname)).model


def get_roi_head_cfg(fname: str) -> ConfigDict:
    """Return the ``roi_head`` of a config of this repository, with its ``train_cfg`` and ``test_cfg``."""
    model = get_detector_cfg(fname)
    return ConfigDict(model.roi_head, train_cfg=model.train_cfg.rcnn, test_cfg=model.test_cfg.rcnn)


def random_boxes(num: int = 1, scale: float = 1, rng: int | np.random.RandomState | None = None) -> Tensor:
    """Draw boxes (num, 4), x1 <= x2, y1 <= y2, all from 0 to ``scale``, float32.

    Args:
        rng: a seed or numpy's generator.
    """
    rng = rng if isinstance(rng, np.random.RandomState) else np.random.RandomState(rng)
    corners = np.sort(rng.rand(num, 2, 2), axis=1) * scale
    return torch.from_numpy(corners.reshape(num, 4)).float()


def demo_mm_inputs(
    batch_size: int = 2,
    image_shapes: Sequence = (3, 128, 128),
    num_items: Sequence[int] | None = None,
    num_classes: int = 10,
    sem_seg_output_strides: int = 1,
    with_mask: bool = False,
    with_semantic: bool = False,
    use_box_type: bool = False,
    device: str | torch.device = 'cpu',
) -> dict:
    """Make up what a data loader gives: the same each time.

    Args:
        batch_size: number of images.
        image_shapes: (3, H, W) of all, or one for each image.
        num_items: numbers of objects; by default 1 to 9.
        num_classes: labels are below it.
        sem_seg_output_strides: the map of classes is smaller by this.
        with_mask, with_semantic: objects have masks; samples a map of classes, ``gt_sem_seg``.
        use_box_type: boxes as :class:`.HorizontalBoxes` instead of tensors.

    Returns:
        ``inputs``, uint8 images, and ``data_samples`` with ``gt_instances`` and ``ignored_instances``, lists of one
        for each image: what a data preprocessor takes.
    """
    rng = np.random.RandomState(0)
    shapes = [image_shapes] * batch_size if isinstance(image_shapes[0], int) else image_shapes
    assert len(shapes) == batch_size, f'demo_mm_inputs: {len(shapes)} image_shapes for {batch_size} images'
    inputs, samples = [], []
    for i, (channels, height, width) in enumerate(shapes):
        inputs.append(torch.from_numpy(rng.randint(0, 256, (channels, height, width), dtype=np.uint8)).to(device))
        meta: dict[str, Any] = dict.fromkeys(('img_shape', 'ori_shape'), (height, width))
        meta.update(img_id=i, filename='<demo>.png', img_path='<demo>.png', scale_factor=np.array([1.1, 1.2]))
        sample = DetDataSample(metainfo=dict(meta, flip=False, flip_direction=None, border=[1, 1, 1, 1]))
        number = rng.randint(1, 10) if num_items is None else num_items[i]
        for field in ('gt_instances', 'ignored_instances'):
            boxes = random_boxes(number, 1, rng) * torch.tensor([width, height] * 2)
            own = InstanceData(bboxes=HorizontalBoxes(boxes) if use_box_type else boxes)
            if field == 'gt_instances':
                own.labels = torch.from_numpy(rng.randint(0, num_classes, number))
            if with_mask:
                own.masks = BitmapMasks(rng.randint(0, 2, (number, height, width), dtype=np.uint8), height, width)
            setattr(sample, field, own)
        if with_semantic:
            size = (1, height // sem_seg_output_strides, width // sem_seg_output_strides)
            sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(rng.randint(0, num_classes, size, dtype=np.uint8)))
        samples.append(sample.to(device))
    return dict(inputs=inputs, data_samples=samples)


def demo_mm_proposals(
    image_shapes: Sequence[Sequence[int]], num_proposals: int, device: str | torch.device = 'cpu'
) -> list[InstanceData]:
    """Make up proposals, as a region proposal network gives them, for images (3, H, W)."""
    rng = np.random.RandomState(0)
    return [
        InstanceData(
            bboxes=random_boxes(num_proposals, 1, rng) * torch.tensor([width, height] * 2),
            scores=torch.from_numpy(rng.rand(num_proposals)).float(),
            labels=torch.zeros(num_proposals, dtype=torch.long),
        ).to(device)
        for _, height, width in image_shapes
    ]


def demo_mm_sampling_results(
    proposals_list: Sequence[InstanceData],
    batch_gt_instances: Sequence[InstanceData],
    batch_gt_instances_ignore: Sequence[InstanceData | None] | None = None,
    assigner_cfg: dict | None = None,
    sampler_cfg: dict | None = None,
    feats: Sequence[Tensor] | None = None,
) -> list[SamplingResult]:
    """Assign and sample proposals, as :meth:`.StandardRoIHead.loss` does; by default by an IoU of 0.5, 512 of them."""
    thresholds = dict(pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5)
    assigner = TASK_UTILS.build(assigner_cfg or dict(type='MaxIoUAssigner', **thresholds))
    sampler = TASK_UTILS.build(sampler_cfg or dict(type='RandomSampler', num=512, pos_fraction=0.25))
    ignored = batch_gt_instances_ignore or [None] * len(proposals_list)
    return sample_proposals(assigner, sampler, proposals_list, batch_gt_instances, ignored, feats)
