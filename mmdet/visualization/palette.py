"""Colours of classes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from mmengine.visualization.utils import color_str2rgb

#: colours (RGB) that stay apart on light and dark ground
PALETTE = np.array(
    [
        (230, 25, 75),
        (60, 180, 75),
        (255, 225, 25),
        (0, 130, 200),
        (245, 130, 48),
        (145, 30, 180),
        (70, 240, 240),
        (240, 50, 230),
        (210, 245, 60),
        (250, 190, 212),
        (0, 128, 128),
        (220, 190, 255),
        (170, 110, 40),
        (255, 250, 200),
        (128, 0, 0),
        (170, 255, 195),
        (128, 128, 0),
        (255, 215, 180),
        (0, 0, 128),
        (128, 128, 128),
    ],
    dtype=np.uint8,
)
#: those of PALETTE that stand out on dark and on stained ground
BRIGHT = PALETTE[[0, 1, 2, 3, 4, 6, 7]]
#: how much white (or black, where negative) the masks of the 1st, 2nd, ... instance of a class have
SHADES = (0, 0.4, -0.3, 0.2, -0.15)
#: mmdetection's names of the palettes of data sets; all mean PALETTE here
DATASETS = ('coco', 'voc', 'citys')


def get_palette(palette: None | str | Sequence, num_classes: int) -> np.ndarray:
    """Return colours of classes 0, 1, ..., as (num_classes, 3) uint8, RGB.

    Args:
        palette: None or 'none', 'coco', 'voc' or 'citys' for this module's colours; 'random' for ones drawn from a
            fixed seed; a colour by Matplotlib's name or as (R, G, B) from 0 to 255 for all classes; or a list of (R, G,
            B), begun again when there are more classes.
        num_classes: how many.

    Raises:
        ValueError: none of these.

    Example:
        >>> get_palette('red', 2).tolist()
        [[255, 0, 0], [255, 0, 0]]
    """
    if palette is None or (isinstance(palette, str) and palette in ('none', *DATASETS)):
        colours: np.ndarray = PALETTE
    elif isinstance(palette, str) and palette == 'random':
        colours = np.random.RandomState(0).randint(0, 256, (num_classes, 3))
    else:
        try:
            colours = np.atleast_2d(color_str2rgb(palette) if isinstance(palette, str) else np.asarray(palette))
            known = colours.ndim == 2 and colours.shape[1] == 3 and (colours >= 0).all() and (colours <= 255).all()
        except (TypeError, ValueError):
            known = False
        if not known:
            raise ValueError(
                f"palette {palette!r}: known are 'none', 'coco', 'voc', 'citys', 'random', the name of a "
                'colour, and (R, G, B) or a list of them, from 0 to 255'
            )
    return colours[np.arange(num_classes) % max(len(colours), 1)].astype(np.uint8)


def shades(colours: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return colours (N, 3), made lighter and darker in turn within each label (N,), as uint8."""
    colours, out = np.asarray(colours, dtype=float), []
    seen: Counter[int] = Counter()
    for colour, label in zip(colours, labels.tolist()):
        share = SHADES[seen[label] % len(SHADES)]
        out.append(colour + share * (255 - colour if share > 0 else colour))
        seen[label] += 1
    return np.array(out).reshape(-1, 3).astype(np.uint8)


def neighbour_colours(bboxes: np.ndarray) -> np.ndarray:
    """Return colours (N, 3) uint8, RGB, for boxes (N, 4), such that near ones differ."""
    centres = (bboxes[:, :2] + bboxes[:, 2:]) / 2
    chosen = np.zeros(len(bboxes), dtype=int)
    for i in range(1, len(bboxes)):
        near = np.argsort(((centres[:i] - centres[i]) ** 2).sum(1))[: len(BRIGHT) - 1]
        free = [k for k in range(len(BRIGHT)) if k not in chosen[near]]
        uses = np.bincount(chosen[:i], minlength=len(BRIGHT))
        chosen[i] = min(free, key=lambda k: uses[k])
    return BRIGHT[chosen]
