"""A head, a transform, a data set, a hook and a metric of one's own, for demo/own_config.py; in mmdetection they run
as they are."""

from collections import Counter

from mmcv.transforms import BaseTransform
from mmengine.hooks import Hook

from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS


@MODELS.register_module()
class SmallObjectsBBoxHead(Shared2FCBBoxHead):
    """Boxes of regions below ``small`` pixels count twice."""

    def __init__(self, *args, small=32, **kwargs):
        super().__init__(*args, **kwargs)
        self.small = small

    def loss(self, cls_score, bbox_pred, rois, labels, label_weights, bbox_targets, bbox_weights, **kwargs):
        width, height = rois[:, 3] - rois[:, 1], rois[:, 4] - rois[:, 2]
        bbox_weights = bbox_weights * (1 + (width * height < self.small**2))[:, None]
        return super().loss(cls_score, bbox_pred, rois, labels, label_weights, bbox_targets, bbox_weights, **kwargs)


@TRANSFORMS.register_module()
class IgnoreThinBoxes(BaseTransform):
    """Objects narrower than ``min_side`` pixels are neither learned nor background."""

    def __init__(self, min_side):
        self.min_side = min_side

    def transform(self, results):
        boxes = results['gt_bboxes']
        thin = (boxes.widths < self.min_side) | (boxes.heights < self.min_side)
        results['gt_ignore_flags'] = results['gt_ignore_flags'] | thin.numpy()
        return results


@DATASETS.register_module()
class CameraDataset(CocoDataset):
    """Knows which camera took an image, where the annotation file says it."""

    METAINFO = dict(classes=('circle', 'square', 'triangle'))

    def parse_data_info(self, raw_data_info):
        info = super().parse_data_info(raw_data_info)
        info['camera'] = raw_data_info['raw_img_info'].get('camera', 'unknown')
        return info


@HOOKS.register_module()
class CamerasHook(Hook):
    """Logs how many images of each camera are trained with."""

    def before_train(self, runner):
        dataset = runner.train_dataloader.dataset
        cameras = Counter(dataset.get_data_info(i)['camera'] for i in range(len(dataset)))
        runner.logger.info(f'cameras: {dict(cameras)}')


@METRICS.register_module()
class CountingMetric(CocoMetric):
    """Besides AP, how many objects are found in an image: ``coco/found``."""

    def compute_metrics(self, results):
        numbers = super().compute_metrics(results)
        numbers['found'] = sum(len(found['scores']) for _, found in results) / len(results)
        return numbers
