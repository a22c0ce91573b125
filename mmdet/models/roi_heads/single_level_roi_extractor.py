"""Features of regions."""

import inspect
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmdet.ops.paths import unobserved
from mmdet.ops.roi_align import roi_align, roi_align_levels
from mmdet.registry import MODELS


class RoIAlign(nn.Module):
    """Samples regions of a feature map on a grid, with sampling points at pixel centres (He et al., Mask R-CNN, 2017).

    It is :func:`~mmdet.ops.roi_align.roi_align`; half precision is computed in float32.

    Args:
        output_size: bins, or (rows, columns) of them.
        spatial_scale: of the feature map to the image.
        sampling_ratio: sampling points along a bin's side; 0: as many as it has cells.
        aligned: pixel centres at half numbers.
        use_torchvision, pool_mode: accepted for mmdetection's configs; torchvision and 'avg' are what there is.

    Raises:
        ValueError: another ``pool_mode``.
    """

    def __init__(
        self,
        output_size: int,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        aligned: bool = True,
        use_torchvision: bool = True,
        pool_mode: str = 'avg',
    ) -> None:
        super().__init__()
        if pool_mode != 'avg':
            raise ValueError(f"roi_layer.pool_mode must be 'avg', got {pool_mode!r}")
        self.output_size = _pair(output_size)
        self.spatial_scale = spatial_scale
        # torchvision wants -1 for "as many as there are cells".
        self.sampling_ratio = sampling_ratio or -1
        self.aligned = aligned

    def forward(self, feats: Tensor, rois: Tensor) -> Tensor:
        """Sample the regions.

        Args:
            feats: map (N, C, H, W).
            rois: (K, 5) of image index and box x1, y1, x2, y2 in pixels of the network's input.

        Returns:
            (K, C, rows, columns) in the dtype of ``feats``.
        """
        dtype = feats.dtype
        if dtype in (torch.float16, torch.bfloat16):
            feats = feats.float()  # half precision cannot tell pixels apart beyond 2048 (256 in bfloat16)
        out = roi_align(feats, rois.to(feats), self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
        return out.to(dtype)

    def of_levels(
        self, feats: Sequence[Tensor], rois: Tensor, levels: Tensor, spatial_scales: Sequence[float]
    ) -> Tensor | None:
        """Sample regions of several maps (N, C, H_i, W_i), each from the one that ``levels`` (K,) says; None where that
        cannot be done at once."""
        dtype = feats[0].dtype
        if dtype in (torch.float16, torch.bfloat16):
            feats = [one.float() for one in feats]
        own = (self.output_size, spatial_scales, self.sampling_ratio, self.aligned)
        found = roi_align_levels(feats, rois.to(feats[0]), levels, *own)
        return None if found is None else found.to(dtype)


@MODELS.register_module()
class SingleRoIExtractor(BaseModule):
    """Takes each region's features from one pyramid level, chosen by the region's size (Lin et al., FPN, eq. 1).

    Args:
        roi_layer: ``type='RoIAlign'`` and its arguments.
        out_channels: channels of the maps.
        featmap_strides: of the maps, in pixels.
        finest_scale: regions of less than twice this size (root of the area, pixels) come from the first map, those of
            less than four times from the second, and so on.

    Raises:
        ValueError: another layer than RoIAlign, or an argument it does not have.

    Example:
        In a config; the fifth map of the FPN is the region proposal network's alone::

            bbox_roi_extractor=dict(
                type='SingleRoIExtractor',
                roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
                out_channels=256,
                featmap_strides=[4, 8, 16, 32],
            )
    """

    def __init__(
        self,
        roi_layer: dict,
        out_channels: int,
        featmap_strides: Sequence[int],
        finest_scale: int = 56,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.roi_layers = self.build_roi_layers(roi_layer, featmap_strides)
        self.out_channels = out_channels
        self.featmap_strides = list(featmap_strides)
        self.finest_scale = finest_scale

    def build_roi_layers(self, layer_cfg: dict, featmap_strides: Sequence[int]) -> nn.ModuleList:
        """Build for each map what takes it (N, C, H, W) and regions (K, 5) to features, as :class:`RoIAlign` does."""
        arguments = dict(layer_cfg)
        kind = arguments.pop('type', None)
        known = list(inspect.signature(RoIAlign.__init__).parameters)[1:]
        if kind != 'RoIAlign' or set(arguments) - set(known):
            raise ValueError(
                f"roi_layer must be dict(type='RoIAlign') with arguments of {', '.join(known)}; got {dict(layer_cfg)}"
            )
        return nn.ModuleList(RoIAlign(spatial_scale=1 / stride, **arguments) for stride in featmap_strides)

    @property
    def num_inputs(self) -> int:
        """Return the number of maps used."""
        return len(self.featmap_strides)

    def map_roi_levels(self, rois: Tensor, num_levels: int) -> Tensor:
        """Choose the level, from 0, of each region.

        Args:
            rois: (K, 5) of image index and box, in pixels of the network's input.
            num_levels: number of levels.

        Returns:
            (K,) int64.
        """
        scale = (rois[:, 3:] - rois[:, 1:3]).prod(1).sqrt()
        level = torch.floor(torch.log2(scale / self.finest_scale + 1e-6))
        return level.clamp(0, num_levels - 1).long()

    def roi_rescale(self, rois: Tensor, scale_factor: float) -> Tensor:
        """Return regions (K, 5) whose widths and heights are multiplied; the centres stay."""
        centre, half = (rois[:, 1:3] + rois[:, 3:]) / 2, (rois[:, 3:] - rois[:, 1:3]) * scale_factor / 2
        return torch.cat([rois[:, :1], centre - half, centre + half], 1)

    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Compute the features of regions.

        Of regions on a GPU the numbers on each level are read back, of regions on the CPU nothing.

        Args:
            feats: maps (N, C, H_i, W_i), ``num_inputs`` of them or fewer.
            rois: (K, 5) of image index and box, in pixels of the network's input; a number that is not finite counts as
                0.
            roi_scale_factor: look at regions so many times as wide and high.

        Returns:
            (K, C, rows, columns), in the order of ``rois``.
        """
        rois = rois.nan_to_num(
            0, 0, 0
        )  # of weights that diverged, or of a step that will be skipped: no place in a map
        num_levels = min(len(feats), self.num_inputs)
        levels = None if num_levels == 1 else self.map_roi_levels(rois, num_levels)
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        if levels is None:
            return self.roi_layers[0](feats[0], rois)
        layers = [layer for layer in self.roi_layers[:num_levels] if type(layer) is RoIAlign]
        if len(layers) == num_levels and unobserved(feats[0], *layers):
            found = layers[0].of_levels(feats, rois, levels, [layer.spatial_scale for layer in layers])
            if found is not None:
                return found
        numbers = (levels == torch.arange(num_levels, device=levels.device)[:, None]).sum(1).tolist()
        order = levels.argsort(stable=True)
        own = rois[order].to(feats[0].device, non_blocking=True).split(numbers)
        # Without regions too: every map stays in the graph, on every rank.
        found = torch.cat([layer(x, part) for x, layer, part in zip(feats, self.roi_layers, own)])
        return torch.empty_like(found).index_copy(0, order.to(found.device, non_blocking=True), found)
