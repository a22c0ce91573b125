"""Made-up images and objects, the same for all detectors."""

import numpy as np


def objects(height, width, number=10, classes=80, seed=0):
    """Boxes (K, 4) float32, x1, y1, x2, y2 in pixels, labels (K,), and masks (K, height, width) uint8: ellipses."""
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 0.6, (number, 2)) * (width, height)
    side = generator.uniform(0.1, 0.4, (number, 2)) * (width, height)
    boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
    y, x = np.mgrid[:height, :width]
    centre, half = corner + side / 2, side / 2
    masks = [((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 <= 1 for (cx, cy), (a, b) in zip(centre, half)]
    return boxes, generator.integers(0, classes, number), np.array(masks, dtype=np.uint8)


def pixels(height, width, seed=0):
    """An image (3, height, width) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
