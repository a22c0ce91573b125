"""Functions on masks."""

import numpy as np
import pycocotools.mask as coco_mask


def encode_mask_results(mask_results) -> list[dict]:
    """Encode masks (K, H, W) bool as K dicts of COCO's compressed run-length encoding, the counts as text."""
    encoded = coco_mask.encode(np.asfortranarray(np.asarray(mask_results, dtype=np.uint8).transpose(1, 2, 0)))
    for rle in encoded:
        rle['counts'] = rle['counts'].decode()
    return encoded
