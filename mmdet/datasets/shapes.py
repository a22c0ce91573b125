"""Synthetic images of overlapping circles, squares and triangles, in COCO's format."""

import cv2
import numpy as np
import pycocotools.mask as coco_mask

SHAPES = ('circle', 'square', 'triangle')
#: a shape of which less is to be seen is no object
LEAST_VISIBLE = 0.3


def _outline(shape: str, size: float, angle: float, centre: np.ndarray) -> np.ndarray:
    """Corners (K, 2) of a shape that fits a circle of radius ``size``."""
    corners = dict(circle=64, square=4, triangle=3)[shape]
    turn = angle + np.arange(corners) * 2 * np.pi / corners
    return centre + size * np.stack([np.cos(turn), np.sin(turn)], 1)


def _background(rng: np.random.Generator, size: int, bounds: tuple[float, float]) -> np.ndarray:
    ramp = np.linspace(0, 1, size)[:, None, None]
    image = rng.uniform(*bounds, 3) * (1 - ramp) + rng.uniform(*bounds, 3) * ramp
    return np.broadcast_to(image, (size, size, 3)).copy()


def make_image(
    seed: int, size: int = 128, max_objects: int = 6, background: tuple[float, float] = (90, 165)
) -> tuple[np.ndarray, list[dict]]:
    """Draw one image and its objects; the same seed gives the same image.

    Args:
        seed: of everything that is drawn.
        size: sides in pixels.
        max_objects: 1 to so many shapes, later ones in front.
        background: least and greatest value of the background's colours. By default images are of much the same
            brightness: otherwise batch statistics tell more of the images than of the shapes.

    Returns:
        (size, size, 3) uint8 BGR; for each visible shape a dict of ``category`` (index into SHAPES), ``bbox`` (x, y,
        width, height) in pixels, ``area`` in pixels and ``segmentation`` (compressed RLE of the visible part).
    """
    rng = np.random.default_rng(seed)
    image = _background(rng, size, background)
    owner = np.full((size, size), -1)
    full = []
    for i in range(int(rng.integers(1, max_objects + 1))):
        kind = int(rng.integers(len(SHAPES)))
        radius = rng.uniform(0.07, 0.22) * size
        centre = rng.uniform(0.1 * size, 0.9 * size, 2)
        corners = _outline(SHAPES[kind], radius, rng.uniform(0, 2 * np.pi), centre)
        mask = np.zeros((size, size), dtype=np.uint8)
        cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 1)
        colour = rng.uniform(0, 255, 3)
        while np.abs(colour - image.mean((0, 1))).max() < 60:  # told apart from the background
            colour = rng.uniform(0, 255, 3)
        image[mask > 0] = colour
        owner[mask > 0] = i
        full.append((kind, int(mask.sum())))
    image += rng.normal(0, 8, image.shape)
    objects = []
    for i, (kind, area) in enumerate(full):
        visible = (owner == i).astype(np.uint8)
        if not area or visible.sum() < max(LEAST_VISIBLE * area, 12):
            continue
        rle = coco_mask.encode(np.asfortranarray(visible))
        objects.append(
            dict(
                category=kind,
                bbox=coco_mask.toBbox(rle).tolist(),
                area=int(visible.sum()),
                segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
            )
        )
    return image.clip(0, 255).astype(np.uint8), objects
