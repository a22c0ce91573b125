"""Text beside boxes: its size, where it fits, and how it is written."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .fonts import split

#: share of any object that its own or another one's label may cover
MAX_COVER = 0.5


@cache
def _face(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


class _Font:
    """Writes text in letters of ``size`` pixels, each in a font that has it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def getlength(self, text: str) -> float:
        return sum(_face(path, self.size).getlength(part) for path, part in split(text))

    def getmask(self, text: str) -> np.ndarray:
        """The opacity of a label (H, W), uint8."""
        letters = Image.new('L', label_size(text, self.size))
        pen, x = ImageDraw.Draw(letters), float(_margin(self.size))
        for path, part in split(text):
            face = _face(path, self.size)
            pen.text((x, round(1.05 * self.size)), part, fill=255, font=face, anchor='ls')
            x += face.getlength(part)
        return np.asarray(letters)


@cache
def _font(size: int) -> _Font:
    return _Font(size)


def label_size(text: str, size: int) -> tuple[int, int]:
    """Return width and height in pixels of a label in letters of ``size`` pixels."""
    return int(np.ceil(_font(size).getlength(text))) + 2 * _margin(size), round(1.25 * size)


def _margin(size: int) -> int:
    return max(1, size // 6)


def readable_ink(ground: np.ndarray) -> np.ndarray:
    """Return white for a colour (3,) uint8, RGB, where its contrast is at least 3 to 1 (WCAG 2.1), else black."""
    linear = ((np.asarray(ground, dtype=float) / 255 + 0.055) / 1.055) ** 2.4
    return np.array((0, 0, 0) if linear @ (0.2126, 0.7152, 0.0722) > 0.3 else (255, 255, 255))


def draw_label(
    canvas: np.ndarray, text: str, corner: np.ndarray, size: int, ground: np.ndarray, ink: np.ndarray | None = None
) -> None:
    """Write a label on a filled rectangle, in place.

    Args:
        canvas: (H, W, 3) uint8, RGB.
        text: of the label.
        corner: x, y of the rectangle's upper left; what is beyond the canvas is cut off.
        size: of the letters in pixels.
        ground, ink: colours of rectangle and letters; :func:`readable_ink` if None.
    """
    opacity = _font(size).getmask(text)[..., None] / 255
    height, width = opacity.shape[:2]
    ink = readable_ink(ground) if ink is None else ink
    x, y = corner
    part = canvas[y : y + height, x : x + width]
    opacity = opacity[: part.shape[0], : part.shape[1]]
    part[:] = np.round((1 - opacity) * ground + opacity * ink)


def find_spot(
    size: tuple[int, int], box: np.ndarray, boxes: np.ndarray, taken: Sequence[np.ndarray], shape: tuple[int, int]
) -> np.ndarray | None:
    """Find where a label goes: beside its box or in a corner of it, inside the picture, on no other label.

    Args:
        size: width and height in pixels.
        box: (4,) xyxy, the label's.
        boxes: (N, 4), those of all objects.
        taken: rectangles (4,) of the labels that are there already.
        shape: height and width of the picture.

    Returns:
        A rectangle (4,) int, or None where it would cover another label or more than ``MAX_COVER`` of an object.
    """
    spots = _candidates(box, size, shape)
    areas = np.maximum(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), 1)
    cover = (_overlap(spots, boxes) / areas).max(1)
    if len(taken):
        cover[(_overlap(spots, np.array(taken)) > 0).any(1)] = np.inf
    # The first spots are where readers expect a label
    best = np.argmin(np.maximum(cover, MAX_COVER / 2) + 0.01 * np.arange(len(spots)))
    return spots[best] if cover[best] <= MAX_COVER else None


def _candidates(box: np.ndarray, size: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """(8, 4) rectangles: above, inside and below, on the left and on the right."""
    (x1, y1, x2, y2), (width, height) = np.round(box).astype(int), size
    corners = np.array([(x, y) for y in (y1 - height, y1, y2 - height, y2) for x in (x1, x2 - width)])
    corners = np.clip(corners, 0, np.maximum(np.array(shape[::-1]) - size, 0))
    return np.concatenate([corners, corners + size], axis=1)


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) areas in which rectangles (N, 4) and (M, 4), xyxy, overlap."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return np.prod(np.maximum(sides, 0), axis=2)
