"""Polygons: drawn, and cut to a rectangle."""

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as coco_mask


def polygons_to_bitmap(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Draw polygons as pycocotools does.

    Args:
        polygons: x1, y1, x2, y2, ... in pixels, (2 K,) each; their union is drawn.
        height, width: of the image in pixels.

    Returns:
        The pixels that they cover, (height, width) bool.
    """
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    parts = coco_mask.frPyObjects([np.asarray(p, dtype=np.float64).tolist() for p in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def clip_polygon(polygon: np.ndarray, width: float, height: float) -> np.ndarray:
    """Cut a polygon to 0, 0, width, height, one side after the other (Sutherland and Hodgman, 1974).

    Pieces of a concave polygon stay joined by edges along the border, which cover nothing.

    Args:
        polygon: x1, y1, x2, y2, ..., (2 K,).
        width, height: in the polygon's unit.

    Returns:
        The part within, (2 L,); empty if all is outside.
    """
    points = polygon.reshape(-1, 2)
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        inside = sign * (points[:, axis] - limit)  # distance from the side, positive within
        before, start = np.roll(inside, 1), np.roll(points, 1, 0)
        out = []
        for p, q, d_p, d_q in zip(start, points, before, inside):
            if (d_p < 0) != (d_q < 0):
                out.append(p + (q - p) * (d_p / (d_p - d_q)))
            if d_q >= 0:
                out.append(q)
        points = np.array(out).reshape(-1, 2)
    return points.reshape(-1)
