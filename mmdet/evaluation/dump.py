"""Detections into a file."""

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as coco_mask
from mmengine.evaluator import DumpResults

from mmdet.registry import METRICS


def encode_masks(masks) -> list[dict]:
    """Encode masks (K, H, W) bool as K dicts of COCO's compressed run-length encoding, the counts as text."""
    encoded = coco_mask.encode(np.asfortranarray(np.asarray(masks, dtype=np.uint8).transpose(1, 2, 0)))
    for rle in encoded:
        rle['counts'] = rle['counts'].decode()
    return encoded


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
                    found['masks'] = encode_masks(found['masks'].cpu().numpy())
            slim.append(kept)
        super().process(data_batch, slim)
