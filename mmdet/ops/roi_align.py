"""RoIAlign (He et al., Mask R-CNN, ICCV 2017) by matrix products, on the CPU."""

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor
from torch.autograd.function import once_differentiable

from .paths import unobserved

#: sampling points along one side, of all regions and bins, beyond which they are not laid out in memory
MAX_POINTS = 2**24


def roi_align(
    feats: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Sample regions of a map on a grid, bilinearly, and average over the bins of each.

    It computes what ``torchvision.ops.roi_align`` does, up to rounding; see :func:`roi_align_levels`.

    Args:
        feats: map (N, C, H, W).
        rois: (K, 5) of image index and box x1, y1, x2, y2, in the dtype of ``feats``.
        output_size: (rows, columns) of bins.
        spatial_scale: of the boxes' unit to cells.
        sampling_ratio: sampling points along a bin's side; 0 or less: as many as it has cells, rounded up.
        aligned: cell centres at half numbers.

    Returns:
        (K, C, rows, columns). On the CPU a region with a number that is not finite gets 0.
    """
    level = rois.new_zeros(rois.shape[0], dtype=torch.long)  # not len: a graph may have a symbol there
    found = roi_align_levels([feats], rois, level, output_size, [spatial_scale], sampling_ratio, aligned)
    if found is not None:
        return found
    return torchvision.ops.roi_align(feats, rois, output_size, spatial_scale, sampling_ratio, aligned)


def roi_align_levels(
    feats: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: tuple[int, int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor | None:
    """Do :func:`roi_align` with regions of several maps at once, on the CPU.

    The sampling points of a region are a grid, and bilinear weights are products, so a region's bins are W_y F W_x^T, F
    being the cells that it covers: two small matrix products a region, forward and backward.

    Args:
        feats: maps (N, C, H_i, W_i).
        levels: (K,), which map each region is taken from.
        spatial_scales: of each map.

    Returns:
        (K, C, rows, columns); None where it can't be done: on another device, in half precision, in a trace, or with
        more than :data:`MAX_POINTS` sampling points.
    """
    if feats[0].dtype not in (torch.float32, torch.float64) or not unobserved(feats[0]):
        return None
    scales = rois.new_tensor(list(spatial_scales))[levels]
    box = rois[:, 1:].detach() * scales[:, None] - (0.5 if aligned else 0)
    sides = []
    for axis in (1, 0):
        size = torch.tensor([one.shape[3 - axis] for one in feats])[levels]
        side = _side(box[:, axis], box[:, axis + 2], size, output_size[1 - axis], sampling_ratio, aligned)
        if side is None:
            return None
        sides.append(side)
    return _RoIAlign.apply(rois[:, 0].long().tolist(), levels.tolist(), *sides, *feats)


def _side(
    start: Tensor, end: Tensor, size: Tensor, bins: int, ratio: int, aligned: bool
) -> tuple[list[int], list[int], Tensor] | None:
    """Along one side of all regions the first cell and the one after the last, and the cells' weights (K, bins, L).

    Args:
        start, end: (K,) in cells.
        size: of each one's map, (K,).

    Returns:
        None where there are more than :data:`MAX_POINTS`.
    """
    length = end - start if aligned else (end - start).clamp(min=1)
    points = (torch.full_like(length, ratio) if ratio > 0 else (length / bins).ceil()).nan_to_num(0, 0, 0)
    most = max(points.max().item(), 1) if len(points) else 1
    if most * bins * len(points) > MAX_POINTS:
        return None
    step, points, size = ((length / bins)[:, None, None], points[:, None, None], size[:, None, None])
    place = torch.arange(most)
    at = start[:, None, None] + torch.arange(bins)[:, None] * step + (place + 0.5) * step / points
    inside = (place < points) & (at >= -1) & (at <= size)  # of a point further out nothing counts
    at = torch.where(inside, at.clamp(min=0).minimum(size - 1), 0)
    low = at.long()
    first = torch.where(inside, low, size - 1).flatten(1).amin(1)
    stop = torch.where(inside, (low + 2).minimum(size), 0).flatten(1).amax(1).maximum(first + 1)
    share = inside / points.clamp(min=1)
    weights = share.new_zeros(len(start), bins, int((stop - first).max()) + 1 if len(start) else 1)
    column = (low - first[:, None, None]).clamp(min=0)
    weights.scatter_add_(2, column, share * (1 - (at - low)))
    weights.scatter_add_(2, column + 1, share * (at - low))
    return first.tolist(), stop.tolist(), weights


class _RoIAlign(torch.autograd.Function):
    """Rows first, then columns: both factors are matrices in the map's own memory, if that is channels-last."""

    @staticmethod
    def forward(ctx, images: list[int], levels: list[int], rows: tuple, columns: tuple, *feats: Tensor) -> Tensor:
        ctx.parts, ctx.shapes = (images, levels, rows, columns), [one.shape for one in feats]
        ctx.dtype = feats[0].dtype
        maps = [one.permute(0, 2, 3, 1).flatten(2) for one in feats]  # (N, H, W * C)
        channels, by_row, by_column = feats[0].shape[1], rows[-1], columns[-1]
        bins = by_row.shape[1], by_column.shape[1]
        out = feats[0].new_empty(len(images), channels, *bins)
        own = out.new_empty(*bins, channels)
        with torch.autocast('cpu', enabled=False):
            regions = zip(images, levels, *rows[:2], *columns[:2])
            for i, (image, level, top, bottom, left, right) in enumerate(regions):
                cells = maps[level][image, top:bottom, left * channels : right * channels]
                part = torch.mm(by_row[i, :, : bottom - top], cells).view(-1, right - left, channels)
                torch.matmul(by_column[i, :, : right - left], part, out=own)
                out[i] = own.permute(2, 0, 1)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        images, levels, rows, columns = ctx.parts
        by_row, by_column = rows[-1], columns[-1]
        # each the owner of its memory, so that autograd adds the next gradient of the map in place
        found = [
            torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last).zero_() for shape in ctx.shapes
        ]
        maps = [one.permute(0, 2, 3, 1).flatten(2) for one in found]
        channels = ctx.shapes[0][1]
        regions = zip(images, levels, *rows[:2], *columns[:2])
        for i, (image, level, top, bottom, left, right) in enumerate(regions):
            own = grad[i].permute(1, 2, 0).contiguous()
            part = torch.matmul(by_column[i, :, : right - left].t(), own).flatten(1)
            cells = maps[level][image, top:bottom, left * channels : right * channels]
            cells.addmm_(by_row[i, :, : bottom - top].t(), part)
        return None, None, None, None, *found
