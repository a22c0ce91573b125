"""Anchors on the cells of feature maps."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from mmdet.mmdetection.arguments import accepts
from mmdet.registry import TASK_UTILS

Device = str | torch.device


@TASK_UTILS.register_module()
@accepts(use_box_type=False)
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
        self.octave_base_scale, self.scales_per_octave = octave_base_scale, scales_per_octave
        if octave_base_scale is not None and scales_per_octave is not None:
            scales = [octave_base_scale * 2 ** (i / scales_per_octave) for i in range(scales_per_octave)]
        self.strides = [_pair(stride) for stride in strides]
        self.base_sizes = [min(stride) for stride in self.strides] if base_sizes is None else list(base_sizes)
        self.scales = torch.tensor(scales, dtype=torch.float32)
        self.ratios = torch.tensor(ratios, dtype=torch.float32)
        self.scale_major = scale_major
        self.centers = centers
        self.center_offset = center_offset
        self.base_anchors = self.gen_base_anchors()

    @property
    def num_levels(self) -> int:
        """Return the number of levels, one for each stride."""
        return len(self.strides)

    @property
    def num_base_priors(self) -> list[int]:
        """Return the number of anchors at a cell, for each level."""
        return [len(anchors) for anchors in self.base_anchors]

    #: mmdetection 2's name
    num_base_anchors = num_base_priors

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(strides={self.strides}, ratios={self.ratios.tolist()}, '
            f'scales={self.scales.tolist()}, base_sizes={self.base_sizes}, scale_major={self.scale_major}, '
            f'centers={self.centers}, center_offset={self.center_offset})'
        )

    def gen_base_anchors(self) -> list[Tensor]:
        """Compute the anchors of the first cell of every level, (A, 4) each."""
        return [
            self.gen_single_level_base_anchors(
                base, self.scales, self.ratios, self.centers[level] if self.centers else None
            )
            for level, base in enumerate(self.base_sizes)
        ]

    def gen_single_level_base_anchors(
        self, base_size: float, scales: Tensor, ratios: Tensor, center: tuple[float, float] | None = None
    ) -> Tensor:
        """Compute the anchors of a level's first cell.

        Args:
            base_size: in pixels.
            scales: (S,), in units of the base size.
            ratios: (R,), height over width.
            center: of the anchors, x and y in pixels; by default ``center_offset * base_size``.

        Returns:
            (R * S, 4), in the order of ``scale_major``.
        """
        x, y = (self.center_offset * base_size,) * 2 if center is None else center
        root = ratios.sqrt()
        if self.scale_major:
            width = (base_size * (1 / root)[:, None] * scales).flatten()
            height = (base_size * root[:, None] * scales).flatten()
        else:
            width = (base_size * scales[:, None] * (1 / root)).flatten()
            height = (base_size * scales[:, None] * root).flatten()
        return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)

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
        self._check_levels(featmap_sizes)
        return [self.single_level_grid_priors(size, i, dtype, device) for i, size in enumerate(featmap_sizes)]

    def grid_anchors(self, featmap_sizes: Sequence[tuple[int, int]], device: Device = 'cpu') -> list[Tensor]:
        """As :meth:`grid_priors`, by mmdetection 2's name."""
        return self.grid_priors(featmap_sizes, device=device)

    def _check_levels(self, featmap_sizes: Sequence) -> None:
        if len(featmap_sizes) != self.num_levels:
            raise ValueError(f'AnchorGenerator: {self.num_levels} strides but {len(featmap_sizes)} feature maps')

    def single_level_grid_priors(
        self, featmap_size: tuple[int, int], level_idx: int, dtype: torch.dtype = torch.float32, device: Device = 'cpu'
    ) -> Tensor:
        """Compute the anchors (H * W * A, 4) of one level of (H, W) cells."""
        return self._shifted(level_idx, featmap_size, self.strides[level_idx], dtype, device)

    def _shifted(
        self, level: int, size: tuple[int, int], stride: tuple[int, int], dtype: torch.dtype, device: Device
    ) -> Tensor:
        base = self.base_anchors[level].to(device=device, dtype=dtype, non_blocking=True)
        x = torch.arange(size[1], device=device, dtype=dtype) * stride[0]
        y = torch.arange(size[0], device=device, dtype=dtype) * stride[1]
        y, x = torch.meshgrid(y, x, indexing='ij')
        shifts = torch.stack([x, y, x, y], -1).view(-1, 1, 4)
        return (shifts + base).view(-1, 4)

    def sparse_priors(
        self,
        prior_idxs: Tensor,
        featmap_size: tuple[int, int],
        level_idx: int,
        dtype: torch.dtype = torch.float32,
        device: Device = 'cpu',
    ) -> Tensor:
        """Return some (M,) of the anchors of one level, (M, 4)."""
        return self.single_level_grid_priors(featmap_size, level_idx, dtype, device)[prior_idxs]

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
        self._check_levels(featmap_sizes)
        return [
            self.single_level_valid_flags(size, (-(-pad_shape[0] // y), -(-pad_shape[1] // x)), number, device)
            for size, (x, y), number in zip(featmap_sizes, self.strides, self.num_base_priors)
        ]

    def single_level_valid_flags(
        self, featmap_size: tuple[int, int], valid_size: tuple[int, int], num_base_anchors: int, device: Device = 'cpu'
    ) -> Tensor:
        """Return (H * W * A,) bool of a level of (H, W) cells, of which the first ``valid_size`` are in the image."""
        rows = torch.arange(featmap_size[0], device=device) < valid_size[0]
        columns = torch.arange(featmap_size[1], device=device) < valid_size[1]
        return (rows[:, None] & columns).flatten().repeat_interleave(num_base_anchors)
