"""Boxes, masks and labels on an image."""
from typing import Optional, Sequence

import cv2
import numpy as np

#: shorter side in pixels that a picture is enlarged to, so that its labels can be read
MIN_SIDE = 480


def readable_factor(image: np.ndarray) -> int:
    """By which whole number an image (H, W, 3) is to be enlarged."""
    return max(1, -(-MIN_SIDE // min(image.shape[:2])))


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """A copy of a picture (H, W, 3), larger by a whole factor."""
    if factor == 1:
        return np.array(image, order='C')
    return cv2.resize(image, (image.shape[1] * factor, image.shape[0] * factor), interpolation=cv2.INTER_CUBIC)


def draw_instances(image: np.ndarray, bboxes: np.ndarray, labels: np.ndarray, classes: Sequence[str],
                   colours: np.ndarray, scores: Optional[np.ndarray] = None, masks: Optional[np.ndarray] = None,
                   mask_colours: Optional[np.ndarray] = None, text_colours: Optional[np.ndarray] = None,
                   line_width: Optional[float] = None, alpha: float = 0.45, factor: int = 1) -> np.ndarray:
    """A copy of the image with instances on it, ``factor`` times as large.

    Args:
        image: (H, W, 3) uint8, RGB.
        bboxes: (N, 4) xyxy in pixels of ``image``.
        labels: (N,) class indices into ``classes``.
        colours: (N, 3) uint8, RGB, of the boxes.
        scores: (N,), 0 to 1, or None.
        masks: (N, H, W) bool, or None.
        mask_colours: (N, 3); ``colours`` if None.
        text_colours: (N, 3); black or white if None, whichever can be read.
        line_width: in pixels; by the size of the picture if None.
        alpha: opacity of the masks.
    """
    height, width = image.shape[:2]
    canvas = enlarge(image, factor)
    thickness = max(1, round(min(canvas.shape[:2]) / 400 if line_width is None else line_width))
    font_scale = max(0.35, min(canvas.shape[:2]) / 1200)
    order = np.argsort(scores, kind='stable') if scores is not None else np.arange(len(bboxes))
    mask_colours = colours if mask_colours is None else mask_colours
    if masks is not None:
        for i in order:
            mask = masks[i].astype(np.uint8)
            if factor > 1:
                mask = cv2.resize(mask, (width * factor, height * factor), interpolation=cv2.INTER_NEAREST)
            inside = mask.astype(bool)
            canvas[inside] = ((1 - alpha) * canvas[inside] + alpha * mask_colours[i]).astype(np.uint8)
            outline, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(canvas, outline, -1, mask_colours[i].tolist(), thickness)
    crowded = len(bboxes) > 60
    for i in order:
        x1, y1, x2, y2 = (int(round(float(v) * factor)) for v in bboxes[i])
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colours[i].tolist(), thickness, cv2.LINE_AA)
    for i in order:
        if crowded and len(classes) == 1:
            break  # labels that all say the same would hide the objects
        text = str(classes[labels[i]]) if labels[i] < len(classes) else str(labels[i])
        if scores is not None:
            text += f' {scores[i]:.2f}'
        ink = None if text_colours is None else text_colours[i]
        _label(canvas, text, (bboxes[i][:2] * factor), colours[i], ink, font_scale)
    return canvas


def _label(canvas: np.ndarray, text: str, corner: np.ndarray, ground: np.ndarray, ink: Optional[np.ndarray],
           scale: float) -> None:
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = int(np.clip(corner[0], 0, max(canvas.shape[1] - width, 0)))
    y = int(corner[1])
    if y < height + below:  # no room above the box
        y += height + below
    cv2.rectangle(canvas, (x, y - height - below), (x + width, y), ground.tolist(), -1)
    if ink is None:
        ink = np.array((0, 0, 0) if ground.mean() > 110 else (255, 255, 255))
    cv2.putText(canvas, text, (x, y - below // 2 - 1), cv2.FONT_HERSHEY_SIMPLEX, scale, ink.tolist(), 1, cv2.LINE_AA)
