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
    """Ground truth and detections of an image.

    ``gt_instances`` and ``ignored_instances`` hold bboxes (N, 4), labels (N,) and masks in pixels of the network's
    input; ``pred_instances`` bboxes (K, 4), scores (K,), labels (K,) and masks (K, H, W) in pixels of the original
    image. Metainfo: img_id, img_path, ori_shape, img_shape, pad_shape, batch_input_shape as (height, width),
    scale_factor as (width, height), flip, flip_direction.
    """

    gt_instances = _instances('gt_instances')
    ignored_instances = _instances('ignored_instances')
    pred_instances = _instances('pred_instances')
    proposals = _instances('proposals')


SampleList = list[DetDataSample]
OptSampleList = SampleList | None
