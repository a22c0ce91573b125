"""Anchors as torchvision's detectors lay them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmdet.registry import TASK_UTILS

from .anchor_generator import AnchorGenerator, Device


@TASK_UTILS.register_module()
class TorchvisionAnchorGenerator(AnchorGenerator):
    """Lays anchors as torchvision does: corners in whole pixels, and strides that follow from the maps' sizes.

    A level's stride is the input's height (width) divided by the map's, rounded down. It differs from ``strides`` where
    a map was rounded up: an input of 352 rows has 6 rows on the level of stride 64, 58 pixels apart. The input must be
    padded to a multiple of the first level's stride, whose map then tells its size. Arguments are
    :class:`AnchorGenerator`'s.
    """

    def gen_single_level_base_anchors(self, *args, **kwargs) -> Tensor:
        """Compute the anchors of a level's first cell, see :meth:`.AnchorGenerator.gen_single_level_base_anchors`."""
        return super().gen_single_level_base_anchors(*args, **kwargs).round()

    def grid_priors(
        self, featmap_sizes: Sequence[tuple[int, int]], dtype: torch.dtype = torch.float32, device: Device = 'cpu'
    ) -> list[Tensor]:
        """Compute the anchors of every level, see :meth:`.AnchorGenerator.grid_priors`."""
        self._check_levels(featmap_sizes)
        sides = [stride * cells for stride, cells in zip(self.strides[0], reversed(featmap_sizes[0]))]
        return [
            self._shifted(i, (height, width), (sides[0] // width, sides[1] // height), dtype, device)
            for i, (height, width) in enumerate(featmap_sizes)
        ]
