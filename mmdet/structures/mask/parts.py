"""Masks that are kept where they are, and not as whole images."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as coco_mask

from .polygons import polygons_to_bitmap

#: a mask's pixels (h, w) uint8 around all that is set, and the row and column of the first one
Part = tuple[np.ndarray, int, int]


class MaskParts:
    """Holds N masks of an image as the rectangles that they fill, seen through rows and columns of that image.

    To resize by nearest neighbours, to mirror, crop or pad an image is to choose rows and columns of it, so that each
    is an operation on two lists, whatever N is.

    Args:
        parts: of each mask.
        rows, columns: which row of the first image each row of this one is, and so with columns; -1: of none, and 0.
    """

    def __init__(self, parts: Sequence[Part], rows: np.ndarray, columns: np.ndarray) -> None:
        self.parts, self.rows, self.columns = list(parts), rows, columns

    def __len__(self) -> int:
        return len(self.parts)

    def view(self, rows: np.ndarray, columns: np.ndarray) -> 'MaskParts':
        """Return the masks of the image that has these rows and columns of this one; -1 for none."""
        chosen = (np.append(old, -1)[new] for old, new in ((self.rows, rows), (self.columns, columns)))
        return MaskParts(self.parts, *chosen)

    def choose(self, index: Any) -> 'MaskParts':
        """Return some of the masks: by number, slice, indices or (N,) bool."""
        chosen = np.arange(len(self))[index].reshape(-1)
        return MaskParts([self.parts[i] for i in chosen], self.rows, self.columns)

    def draw(self, number: int, window: tuple[int, int, int, int], out: np.ndarray) -> None:
        """Write into ``out`` (h, w), which is 0, what mask ``number`` has in a window of top, bottom, left, right."""
        pixels, *first = self.parts[number]
        top, bottom, left, right = window
        inside, wanted = [], []
        for chosen, start, size in zip((self.rows[top:bottom], self.columns[left:right]), first, pixels.shape):
            place = chosen - start
            there = np.flatnonzero((chosen >= 0) & (place >= 0) & (place < size))
            if not len(there):
                return
            inside.append(slice(there[0], there[-1] + 1))  # rows of an image are in order, or all turned around
            wanted.append(place[inside[-1]])
        out[inside[0], inside[1]] = pixels[wanted[0]][:, wanted[1]]

    def seen_by(self, boxes: np.ndarray) -> np.ndarray:
        """Draw the masks from the image's first pixel to the last that boxes may see by bilinear interpolation.

        Args:
            boxes: (P, 4) x1, y1, x2, y2 in pixels, finite.

        Returns:
            (N, height, width) uint8.
        """
        sides = len(self.columns), len(self.rows)
        width, height = np.clip(np.ceil(boxes.reshape(-1, 2).max(0)) + 2, 1, sides).astype(int)
        pixels = np.zeros((len(self), height, width), dtype=np.uint8)
        for i, out in enumerate(pixels):
            self.draw(i, (0, height, 0, width), out)
        return pixels


def whole(masks: np.ndarray) -> MaskParts:
    """Return masks (N, height, width) as parts, which are all of it."""
    return MaskParts([(mask, 0, 0) for mask in masks], *map(np.arange, masks.shape[1:]))


@lru_cache(256)
def nearest(old: int, new: int) -> np.ndarray:
    """Return which of ``old`` places each of ``new`` places shows when OpenCV resizes by nearest neighbours, (new,)."""
    places = np.arange(old, dtype=np.float32)[None]
    return cv2.resize(places, (new, 1), interpolation=cv2.INTER_NEAREST)[0].astype(np.int64)


def draw_part(mask: list | dict | None, height: int, width: int) -> Part:
    """Draw polygons, or decode a sound run-length encoding, of an image of ``height`` x ``width``; None is empty."""
    if not mask:
        return np.zeros((0, 0), dtype=np.uint8), 0, 0
    if isinstance(mask, dict):
        rle = coco_mask.frPyObjects(mask, height, width) if isinstance(mask['counts'], list) else mask
        left, top, wide, high = (int(value) for value in coco_mask.toBbox(rle))
        return coco_mask.decode(rle)[top : top + high, left : left + wide].copy(), top, left
    # On a canvas that ends behind the polygons they are drawn as on one that goes on.
    x, y = (np.concatenate([np.asarray(one, dtype=float)[axis::2] for one in mask]) for axis in (0, 1))
    high, wide = (int(min(max(np.ceil(at.max()) + 2, 1), side)) for at, side in ((y, height), (x, width)))
    top, left = (int(max(np.floor(at.min()) - 1, 0)) for at in (y, x))
    return polygons_to_bitmap(mask, high, wide)[top:, left:].astype(np.uint8), top, left
