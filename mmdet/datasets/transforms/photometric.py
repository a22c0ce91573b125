"""Changes of an image's colours."""

from collections.abc import Sequence

import mmcv
import numpy as np
from mmcv.transforms.utils import cache_randomness

from mmdet.registry import TRANSFORMS

from .base import DetTransform


@TRANSFORMS.register_module()
class PhotoMetricDistortion(DetTransform):
    """Changes brightness, contrast, saturation and hue, and swaps channels, each with probability 1/2 (SSD, Liu et al.,
    ECCV 2016, sec. 3.6).

    Contrast changes before or after saturation and hue, with equal probability. The image becomes float32 and is not
    cut to 0 to 255.

    Args:
        brightness_delta: at most so many grey levels are added or taken away.
        contrast_range: (least, greatest) factor of all channels.
        saturation_range: (least, greatest) factor of the saturation.
        hue_delta: at most so many degrees, of 360.

    Example:
        In a pipeline, after LoadAnnotations::

            dict(type='PhotoMetricDistortion')
    """

    def __init__(
        self,
        brightness_delta: int = 32,
        contrast_range: Sequence[float] = (0.5, 1.5),
        saturation_range: Sequence[float] = (0.5, 1.5),
        hue_delta: int = 18,
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = _two(contrast_range)
        self.saturation_range = _two(saturation_range)
        self.hue_delta = hue_delta

    @cache_randomness
    def _draw(self) -> dict:
        """What is changed, and by how much; always as many numbers, whatever is changed."""
        draw = np.random
        flags = {name: draw.randint(2) for name in ('early', 'brightness', 'contrast', 'saturation', 'hue', 'swap')}
        numbers = dict(
            brightness=draw.uniform(-self.brightness_delta, self.brightness_delta),
            contrast=draw.uniform(*self.contrast_range),
            saturation=draw.uniform(*self.saturation_range),
            hue=draw.uniform(-self.hue_delta, self.hue_delta),
            swap=draw.permutation(3),
        )
        drawn = {name: value for name, value in numbers.items() if flags[name]}
        return dict(drawn, early=flags['early'])

    def transform(self, results: dict) -> dict:
        """Change ``img`` (H, W, 3), in the order BGR with grey levels from 0 to 255, to float32."""
        drawn = self._draw()
        image = results['img'].astype(np.float32)
        image += drawn.get('brightness', 0)
        if drawn['early']:
            image *= drawn.get('contrast', 1)
        image = mmcv.bgr2hsv(image)
        if 'saturation' in drawn:
            image[..., 1] *= drawn['saturation']
            if drawn['saturation'] > 1:
                image[..., 1] = image[..., 1].clip(0, 1)
        if 'hue' in drawn:
            hue = image[..., 0]
            hue += drawn['hue']
            hue[hue > 360] -= 360
            hue[hue < 0] += 360
        image = mmcv.hsv2bgr(image)
        if not drawn['early']:
            image *= drawn.get('contrast', 1)
        results['img'] = image[..., drawn['swap']] if 'swap' in drawn else image
        return results


def _two(numbers: Sequence[float]) -> tuple[float, float]:
    least, most = numbers
    return least, most
