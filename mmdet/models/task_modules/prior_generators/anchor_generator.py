"""Anchors on the cells of feature maps."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from mmdet.registry import TASK_UTILS

Device = str | torch.device


@TASK_UTILS.register_module()
class AnchorGenerator:
    """Lays anchors of several scales and ratios on each cell of feature maps (Ren et al., Faster R-CNN, NeurIPS 2015).

    An anchor of a level has the height ``base * scale * sqrt(ratio)`` and the width ``base * scale / sqrt(ratio)``; it
    is centred on ``center_offset * base`` plus the cell's index times the stride. Anchors are x1, y1, x2, y2 in pixels
    of the network's input.

    Args:
        strides: of the levels, in pixels; int or (width, height).
        ratios: height over width.
        scales: of the anchors in units of the base size. Without it ``octave_base_scale * 2^(i / scales_per_octave)``.
        base_sizes: one for each level; by default the strides.
        scale_major: order of the anchors at a cell: all scales of the first ratio, then of the second, ...; else all
            ratios of the first scale, then of the second, ...
        octave_base_scale, scales_per_octave: instead of ``scales``; i goes from 0 to ``scales_per_octave - 1``.
        centers: centre (x, y) of the first cell's anchors in pixels, for each level, instead of ``center_offset``.
        center_offset: 0 puts the first anchor's centre on the image's corner, 0.5 on the first cell's middle.

    Raises:
        ValueError: both ``scales`` and octaves, or neither.

    Example:
        >>> generator = AnchorGenerator(strides=[16], ratios=[1.0], scales=[8])
        >>> generator.grid_priors([(1, 2)])[0]  # one row of two cells
        tensor([[-64., -64.,  64.,  64.],
                [-48., -64.,  80.,  64.]])
    """

    def __init__(
        self,
        strides: Sequence,
        ratios: Sequence[float],
        scales: Sequence[float] | None = None,
        base_sizes: Sequence[float] | None = None,
        scale_major: bool = True,
        octave_base_scale: int | None = None,
        scales_per_octave: int | None = None,
        centers: Sequence[tuple[float, float]] | None = None,
        center_offset: float = 0.0,
    ) -> None:
        if (scales is None) == (octave_base_scale is None or scales_per_octave is None):
            raise ValueError(
                'AnchorGenerator: give either scales, or octave_base_scale and scales_per_octave; got '
                f'scales={scales}, octave_base_scale={octave_base_scale}, '
                f'scales_per_octave={scales_per_octave}'
            )
        if octave_base_scale is not None and scales_per_octave is not None:
            scales = [octave_base_scale * 2 ** (i / scales_per_octave) for i in range(scales_per_octave)]
        self.strides = [_pair(stride) for stride in strides]
        self.base_sizes = [min(stride) for stride in self.strides] if base_sizes is None else list(base_sizes)
        self.scales = torch.tensor(scales, dtype=torch.float32)
        self.ratios = torch.tensor(ratios, dtype=torch.float32)
        self.scale_major = scale_major
        self.centers = centers
        self.center_offset = center_offset
        self.base_anchors = [self._base_anchors(i) for i in range(self.num_levels)]

    @property
    def num_levels(self) -> int:
        """Return the number of levels, one for each stride."""
        return len(self.strides)

    @property
    def num_base_priors(self) -> list[int]:
        """Return the number of anchors at a cell, for each level."""
        return [len(anchors) for anchors in self.base_anchors]

    def _base_anchors(self, level: int) -> Tensor:
        base = self.base_sizes[level]
        centre = self.centers[level] if self.centers else (self.center_offset * base,) * 2
        root = self.ratios.sqrt()
        if self.scale_major:
            width = (base * (1 / root)[:, None] * self.scales).flatten()
            height = (base * root[:, None] * self.scales).flatten()
        else:
            width = (base * self.scales[:, None] * (1 / root)).flatten()
            height = (base * self.scales[:, None] * root).flatten()
        x, y = centre
        return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)

    def _cell_strides(self, featmap_sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Distance of the cells of every level, (x, y) in pixels."""
        return self.strides

    def grid_priors(
        self, featmap_sizes: Sequence[tuple[int, int]], dtype: torch.dtype = torch.float32, device: Device = 'cpu'
    ) -> list[Tensor]:
        """Compute the anchors of every level.

        Args:
            featmap_sizes: (height, width) in cells, of each level.
            dtype, device: of the anchors.

        Returns:
            For each level (H * W * A, 4): row by row, cell by cell, the cell's A anchors together.

        Raises:
            ValueError: another number of levels than strides.
        """
        if len(featmap_sizes) != self.num_levels:
            raise ValueError(f'AnchorGenerator: {self.num_levels} strides but {len(featmap_sizes)} feature maps')
        anchors = []
        strides = self._cell_strides(featmap_sizes)
        for base, (stride_x, stride_y), (height, width) in zip(self.base_anchors, strides, featmap_sizes):
            base = base.to(device=device, dtype=dtype, non_blocking=True)
            x = torch.arange(width, device=device, dtype=dtype) * stride_x
            y = torch.arange(height, device=device, dtype=dtype) * stride_y
            y, x = torch.meshgrid(y, x, indexing='ij')
            shifts = torch.stack([x, y, x, y], -1).view(-1, 1, 4)
            anchors.append((shifts + base).view(-1, 4))
        return anchors

    def valid_flags(
        self, featmap_sizes: Sequence[tuple[int, int]], pad_shape: tuple, device: Device = 'cpu'
    ) -> list[Tensor]:
        """Tell which anchors belong to cells inside an image.

        Args:
            featmap_sizes: (height, width) in cells, of each level.
            pad_shape: (height, width) of the padded image in pixels.
            device: of the flags.

        Returns:
            For each level (H * W * A,) bool, in the order of :meth:`grid_priors`.
        """
        flags = []
        for (height, width), (stride_x, stride_y), number in zip(featmap_sizes, self.strides, self.num_base_priors):
            rows = torch.arange(height, device=device) < -(-pad_shape[0] // stride_y)
            columns = torch.arange(width, device=device) < -(-pad_shape[1] // stride_x)
            flags.append((rows[:, None] & columns).flatten().repeat_interleave(number))
        return flags
