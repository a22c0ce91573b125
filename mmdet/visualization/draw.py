"""Boxes, masks and labels on an image."""

from collections.abc import Sequence

import cv2
import numpy as np

from .fonts import find_fonts
from .labels import draw_label, find_spot, label_size
from .palette import shades

#: shorter side in pixels that a picture is enlarged to, so that its labels can be read
MIN_SIDE = 480
#: longer side up to which a picture with small objects is enlarged, until half of them are of MIN_OBJECT pixels
MAX_SIDE, MIN_OBJECT = 1280, 48
#: colour of ignored regions
IGNORED = np.array((225, 225, 225), dtype=np.uint8)


def readable_factor(image: np.ndarray, bboxes: np.ndarray | None = None) -> int:
    """Return by which whole number an image is to be enlarged so that its labels can be read.

    Args:
        image: (H, W, 3).
        bboxes: (N, 4) in its pixels, or None; small ones make the factor larger.
    """
    height, width = image.shape[:2]
    factor = max(1, -(-MIN_SIDE // min(height, width)))
    if bboxes is not None and len(bboxes):
        wanted = int(np.ceil(MIN_OBJECT / max(typical_side(bboxes), 1)))
        factor = max(factor, min(wanted, MAX_SIDE // max(height, width)))
    return factor


def typical_side(bboxes: np.ndarray) -> float:
    """Return the median over boxes (N, 4) of the root of their area, in pixels."""
    return float(np.median(np.sqrt(np.prod(np.maximum(bboxes[:, 2:] - bboxes[:, :2], 0), axis=1))))


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Return a copy of a picture (H, W, 3), larger by a whole factor."""
    if factor == 1:
        return np.array(image, order='C')
    return cv2.resize(image, (image.shape[1] * factor, image.shape[0] * factor), interpolation=cv2.INTER_CUBIC)


def draw_instances(
    image: np.ndarray,
    bboxes: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    colours: np.ndarray,
    scores: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    mask_colours: np.ndarray | None = None,
    text_colours: np.ndarray | None = None,
    line_width: float | None = None,
    alpha: float = 0.45,
    factor: int = 1,
    ignored: np.ndarray | None = None,
) -> np.ndarray:
    """Draw instances on a copy of the image, ``factor`` times as large.

    Labels that would hide other labels or small objects are left out.

    Args:
        image: (H, W, 3) uint8, RGB.
        bboxes: (N, 4) xyxy in pixels of ``image``.
        labels: (N,) class indices into ``classes``.
        classes: names; a label beyond them is written as its number.
        colours: (N, 3) uint8, RGB, of the boxes.
        scores: (N,), 0 to 1, or None.
        masks: (N, H, W) bool, or None.
        mask_colours: (N, 3); shades of ``colours`` if None, so that instances of one class can be told apart.
        text_colours: (N, 3); black or white if None, whichever can be read.
        line_width: in pixels; by the size of the picture if None.
        alpha: opacity of the masks.
        factor: a whole number.
        ignored: (N,) bool, drawn as regions that count neither way: grey, dashed, hatched.

    Returns:
        (factor * H, factor * W, 3) uint8, RGB.
    """
    canvas = enlarge(image, factor)
    side = min(canvas.shape[:2])
    boxes = np.asarray(bboxes, dtype=float).reshape(-1, 4) * factor
    small = len(boxes) > 1 and typical_side(boxes) < side / 12
    thickness = max(1, round(side / (600 if small else 300) if line_width is None else line_width))
    ignored = np.zeros(len(boxes), dtype=bool) if ignored is None else ignored
    mask_colours = shades(colours, labels) if mask_colours is None else mask_colours
    colours, mask_colours = (np.where(ignored[:, None], IGNORED, each) for each in (colours, mask_colours))
    # Ignored regions below, small objects on top
    order = np.lexsort((-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), ~ignored))
    if masks is not None:
        for i in order:
            _draw_mask(canvas, masks[i], mask_colours[i], thickness, alpha, factor, bool(ignored[i]))
    for i in order:
        _draw_box(canvas, boxes[i], colours[i], thickness, dashed=bool(ignored[i]))
    size = max(12, round(side / 45))
    find_fonts(''.join(map(str, classes)))  # of all names at once
    full, short = _texts(labels, classes, scores, ignored)
    for i, text, corner in _fit_texts(full, short, boxes, scores, len(classes) == 1, size, canvas.shape[:2]):
        draw_label(canvas, text, corner, size, colours[i], None if text_colours is None else text_colours[i])
    return canvas


def _draw_mask(
    canvas: np.ndarray, mask: np.ndarray, colour: np.ndarray, thickness: int, alpha: float, factor: int, hatched: bool
) -> None:
    mask = np.ascontiguousarray(mask)
    mask = mask.view(np.uint8) if mask.dtype == bool else mask.astype(np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    if not width:
        return
    x1, y1 = max(x - 1, 0), max(y - 1, 0)
    mask = mask[y1 : y + height + 1, x1 : x + width + 1] * 255
    if factor > 1:
        mask = cv2.resize(mask, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    mask = (mask > 127).astype(np.uint8)
    x1, y1 = x1 * factor, y1 * factor
    inside = mask.astype(bool)
    if hatched:
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        inside &= (rows + columns) // (2 * thickness + 1) % 2 == 0
    part = canvas[y1 : y1 + mask.shape[0], x1 : x1 + mask.shape[1]]
    part[inside] = ((1 - alpha) * part[inside] + alpha * colour).astype(np.uint8)
    outline, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outline, -1, colour.tolist(), thickness, offset=(x1, y1))


def _draw_box(canvas: np.ndarray, box: np.ndarray, colour: np.ndarray, thickness: int, dashed: bool) -> None:
    x1, y1, x2, y2 = np.round(box).astype(int).tolist()
    if not dashed:
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour.tolist(), thickness, cv2.LINE_AA)
        return
    dash = 6 * thickness
    for x in range(x1, x2, 2 * dash):
        for y in (y1, y2):
            cv2.line(canvas, (x, y), (min(x + dash, x2), y), colour.tolist(), thickness)
    for y in range(y1, y2, 2 * dash):
        for x in (x1, x2):
            cv2.line(canvas, (x, y), (x, min(y + dash, y2)), colour.tolist(), thickness)


def _texts(
    labels: np.ndarray, classes: Sequence[str], scores: np.ndarray | None, ignored: np.ndarray
) -> tuple[list[str], list[str]]:
    """What the labels say, in full and where there is little room."""
    names = [
        ('ignored ' if flag else '') + str(classes[label] if label < len(classes) else label)
        for label, flag in zip(labels, ignored)
    ]
    if scores is None:
        return names, names
    numbers = [f'{score:.2f}' for score in scores]
    return [f'{name} {number}' for name, number in zip(names, numbers)], numbers if len(classes) == 1 else names


def _fit_texts(
    full: list[str],
    short: list[str],
    boxes: np.ndarray,
    scores: np.ndarray | None,
    one_class: bool,
    size: int,
    shape: tuple[int, int],
) -> list[tuple[int, str, np.ndarray]]:
    """Index, text and corner of the labels that there is room for, those of the best scores first."""
    order = np.arange(len(boxes)) if scores is None else np.argsort(-scores, kind='stable')
    # The name of the only class is written once where labels are wider than objects and the space between them; names
    # without scores, which say nothing new, sooner
    once = False
    if one_class and len(boxes) > 1:
        width = np.mean([label_size(text, size)[0] for text in full]) * (1 if scores is not None else 2)
        once = width > max(typical_side(boxes), (shape[0] * shape[1] / len(boxes)) ** 0.5)
    placed: list[tuple[int, str, np.ndarray]] = []
    taken: list[np.ndarray] = []
    for i in order:
        if not (once and placed):
            texts: tuple[str, ...] = (full[i], short[i])
        elif scores is not None:
            texts = (short[i],)
        else:
            break
        for text in dict.fromkeys(texts):
            spot = find_spot(label_size(text, size), boxes[i], boxes, taken, shape)
            if spot is not None:
                placed.append((i, text, spot[:2]))
                taken.append(spot)
                break
    return placed
