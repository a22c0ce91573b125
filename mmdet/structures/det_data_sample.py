"""What is known of one image, and what a detector says of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement, InstanceData, PixelData


def _field(name: str, kind: type) -> property:
    private = f'_{name}'

    def get(self) -> Any:
        return getattr(self, private)

    def put(self, value: Any) -> None:
        self.set_field(value, private, dtype=kind)

    def remove(self) -> None:
        delattr(self, private)

    return property(get, put, remove)


class DetDataSample(BaseDataElement):
    """Holds what is known of one image and what a detector says of it; goes in and out of every detector.

    ``gt_instances`` and ``ignored_instances`` have bboxes (N, 4), labels (N,) and masks (:class:`.BitmapMasks` or
    :class:`.PolygonMasks`) in pixels of the network's input; ``pred_instances`` bboxes (K, 4), scores (K,), labels (K,)
    and masks (K, H, W) bool in pixels of the original image. All are mmengine's InstanceData: indexing one takes
    objects. ``proposals`` (bboxes, scores) come with the data where the detector makes none itself. For heads of one's
    own there are maps of classes, mmengine's PixelData: ``gt_sem_seg``, ``pred_sem_seg`` and those of ``panoptic_seg``.

    Metainfo: img_id, img_path, ori_shape, img_shape, pad_shape, batch_input_shape as (height, width), scale_factor as
    (width, height), flip, flip_direction.

    Example:
        >>> import torch
        >>> from mmengine.structures import InstanceData
        >>> sample = DetDataSample(metainfo=dict(img_shape=(800, 1120)))
        >>> boxes = torch.tensor([[8.0, 8.0, 64.0, 32.0], [0.0, 0.0, 16.0, 16.0]])
        >>> sample.pred_instances = InstanceData(bboxes=boxes, scores=torch.tensor([0.9, 0.2]))
        >>> sample.pred_instances[sample.pred_instances.scores > 0.5].bboxes
        tensor([[ 8.,  8., 64., 32.]])
        >>> sample.img_shape
        (800, 1120)
    """

    gt_instances = _field('gt_instances', InstanceData)
    ignored_instances = _field('ignored_instances', InstanceData)
    pred_instances = _field('pred_instances', InstanceData)
    proposals = _field('proposals', InstanceData)
    gt_sem_seg = _field('gt_sem_seg', PixelData)
    pred_sem_seg = _field('pred_sem_seg', PixelData)
    gt_panoptic_seg = _field('gt_panoptic_seg', PixelData)
    pred_panoptic_seg = _field('pred_panoptic_seg', PixelData)

    def to_supervision(self, classes: Sequence[str] | None = None) -> Any:
        """Return the detections as ``supervision.Detections`` (github.com/roboflow/supervision).

        Args:
            classes: names, for ``data['class_name']``: ``model.dataset_meta['classes']``.

        Raises:
            ImportError: supervision is not installed. AttributeError: there are no ``pred_instances``.
        """
        try:
            from supervision import Detections
        except ImportError:
            raise ImportError('to_supervision needs supervision: pip install supervision') from None
        found = self.pred_instances.cpu()
        labels = found.labels.numpy().astype(int)
        return Detections(
            xyxy=found.bboxes.numpy().astype(np.float32),
            confidence=found.scores.numpy().astype(np.float32),
            class_id=labels,
            mask=found.masks.numpy().astype(bool) if 'masks' in found and len(found) else None,
            data={} if classes is None else dict(class_name=np.array([classes[i] for i in labels], dtype=str)),
        )


SampleList = list[DetDataSample]
OptSampleList = SampleList | None
