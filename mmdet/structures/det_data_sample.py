"""What is known of one image, and what a detector says of it."""

from mmengine.structures import BaseDataElement, InstanceData


def _instances(name: str) -> property:
    private = f'_{name}'

    def get(self) -> InstanceData:
        return getattr(self, private)

    def put(self, value: InstanceData) -> None:
        self.set_field(value, private, dtype=InstanceData)

    def remove(self) -> None:
        delattr(self, private)

    return property(get, put, remove)


class DetDataSample(BaseDataElement):
    """Holds what is known of one image and what a detector says of it; goes in and out of every detector.

    ``gt_instances`` and ``ignored_instances`` have bboxes (N, 4), labels (N,) and masks (:class:`.BitmapMasks` or
    :class:`.PolygonMasks`) in pixels of the network's input; ``pred_instances`` bboxes (K, 4), scores (K,), labels (K,)
    and masks (K, H, W) bool in pixels of the original image. All are mmengine's InstanceData: indexing one takes
    objects. ``proposals`` is there for mmdetection's scripts; nothing here fills it.

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

    gt_instances = _instances('gt_instances')
    ignored_instances = _instances('ignored_instances')
    pred_instances = _instances('pred_instances')
    proposals = _instances('proposals')


SampleList = list[DetDataSample]
OptSampleList = SampleList | None
