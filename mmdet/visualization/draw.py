"""Boxes, masks and labels on an image."""
from typing import Optional, Sequence

import cv2
import numpy as np

#: colours (RGB) that stay apart on light and dark ground
PALETTE = np.array([(230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
                    (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 128, 128), (220, 190, 255),
                    (170, 110, 40), (255, 250, 200), (128, 0, 0), (170, 255, 195), (128, 128, 0), (255, 215, 180),
                    (0, 0, 128), (128, 128, 128)], dtype=np.uint8)
#: shorter side in pixels that a picture is enlarged to, so that its labels can be read
MIN_SIDE = 480


def enlarge(image: np.ndarray) -> tuple[np.ndarray, int]:
    """A small picture made larger by a whole factor, and the factor; (H, W, 3) in and out."""
    factor = max(1, -(-MIN_SIDE // min(image.shape[:2])))
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return (image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)), factor


def draw_instances(image: np.ndarray, bboxes: np.ndarray, labels: np.ndarray, classes: Sequence[str],
                   scores: Optional[np.ndarray] = None, masks: Optional[np.ndarray] = None,
                   by_instance: bool = False) -> np.ndarray:
    """A copy of the image, enlarged if small, with instances on it.

    Args:
        image: (H, W, 3) uint8, RGB.
        bboxes: (N, 4) xyxy in pixels of ``image``.
        labels: (N,) class indices into ``classes``.
        scores: (N,), 0 to 1, or None.
        masks: (N, H, W) bool, or None.
        by_instance: a colour for each instance instead of each class.
    """
    height, width = image.shape[:2]
    canvas, factor = enlarge(image)
    canvas = np.ascontiguousarray(canvas).copy()
    thickness = max(1, round(min(canvas.shape[:2]) / 400))
    font_scale = max(0.35, min(canvas.shape[:2]) / 1200)
    order = np.argsort(scores, kind='stable') if scores is not None else np.arange(len(bboxes))
    colours = PALETTE[(np.arange(len(bboxes)) if by_instance else labels) % len(PALETTE)]
    if masks is not None:
        for i in order:
            mask = masks[i].astype(np.uint8)
            if factor > 1:
                mask = cv2.resize(mask, (width * factor, height * factor), interpolation=cv2.INTER_NEAREST)
            inside = mask.astype(bool)
            canvas[inside] = (0.55 * canvas[inside] + 0.45 * colours[i]).astype(np.uint8)
            outline, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(canvas, outline, -1, colours[i].tolist(), thickness)
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
        _label(canvas, text, (bboxes[i][:2] * factor), colours[i], font_scale)
    return canvas


def _label(canvas: np.ndarray, text: str, corner: np.ndarray, colour: np.ndarray, scale: float) -> None:
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = int(np.clip(corner[0], 0, max(canvas.shape[1] - width, 0)))
    y = int(corner[1])
    if y < height + below:  # no room above the box
        y += height + below
    cv2.rectangle(canvas, (x, y - height - below), (x + width, y), colour.tolist(), -1)
    ink = (0, 0, 0) if colour.mean() > 110 else (255, 255, 255)
    cv2.putText(canvas, text, (x, y - below // 2 - 1), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
