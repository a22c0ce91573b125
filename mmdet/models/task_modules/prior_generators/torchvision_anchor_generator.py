"""Anchors as torchvision's detectors lay them."""

from collections.abc import Sequence

from torch import Tensor

from mmdet.registry import TASK_UTILS

from .anchor_generator import AnchorGenerator


@TASK_UTILS.register_module()
class TorchvisionAnchorGenerator(AnchorGenerator):
    """Lays anchors as torchvision does: corners in whole pixels, and strides that follow from the maps' sizes.

    A level's stride is the input's height (width) divided by the map's, rounded down. It differs from ``strides`` where
    a map was rounded up: an input of 352 rows has 6 rows on the level of stride 64, 58 pixels apart. The input must be
    padded to a multiple of the first level's stride, whose map then tells its size. Arguments are
    :class:`AnchorGenerator`'s.
    """

    def _base_anchors(self, level: int) -> Tensor:
        return super()._base_anchors(level).round()

    def _cell_strides(self, featmap_sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        input_width, input_height = (
            stride * cells for stride, cells in zip(self.strides[0], reversed(featmap_sizes[0]))
        )
        return [(input_width // width, input_height // height) for height, width in featmap_sizes]
