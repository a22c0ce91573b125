"""Detections into a file."""

from collections.abc import Sequence

from mmengine.evaluator import DumpResults

from mmdet.registry import METRICS
from mmdet.structures.mask import encode_mask_results


@METRICS.register_module()
class DumpDetResults(DumpResults):
    """Writes all detections of a test to a .pkl file, the masks run-length encoded; ground truth is left out.

    Args:
        out_file_path: of the file, which ends with ``.pkl``; a list of a dict for each image.
        collect_device, collect_dir: as in mmengine's DumpResults.

    Example:
        In a config, beside the metric that is there::

            test_evaluator = [
                dict(type='CocoMetric', ann_file='data/coco/annotations/instances_val2017.json'),
                dict(type='DumpDetResults', out_file_path='results.pkl'),
            ]
    """

    def process(self, data_batch: dict, predictions: Sequence[dict]) -> None:
        """Keep a batch's data samples (dicts), without ground truth, masks (K, H, W) as K run-length encodings."""
        slim = []
        for sample in predictions:
            kept = {
                key: value
                for key, value in sample.items()
                if key not in ('gt_instances', 'ignored_instances', 'proposals')
            }
            if 'pred_instances' in kept:
                found = kept['pred_instances'] = dict(kept['pred_instances'])
                if 'masks' in found:
                    found['masks'] = encode_mask_results(found['masks'].cpu().numpy())
            slim.append(kept)
        super().process(data_batch, slim)
