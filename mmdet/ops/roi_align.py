"""RoIAlign (He et al., Mask R-CNN, ICCV 2017) by matrix products, on the CPU."""

import torch
import torchvision
from torch import Tensor
from torch.autograd.function import once_differentiable

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

    It computes what ``torchvision.ops.roi_align`` does, up to rounding. The sampling points of a region are a grid, and
    bilinear weights are products, so a region's bins are W_y F W_x^T, F being the cells that it covers: on the CPU two
    small matrix products a region, forward and backward. Elsewhere it is torchvision's.

    Args:
        feats: map (N, C, H, W).
        rois: (K, 5) of image index and box x1, y1, x2, y2, in the dtype of ``feats``.
        output_size: (rows, columns) of bins.
        spatial_scale: of the boxes' unit to cells.
        sampling_ratio: sampling points along a bin's side; 0 or less: as many as it has cells, rounded up.
        aligned: cell centres at half numbers.

    Returns:
        (K, C, rows, columns), on the CPU in channels-last memory. A region with a number that is not finite gets 0
        there.
    """
    plain = feats.device.type != 'cpu' or feats.dtype not in (torch.float32, torch.float64)
    if not (plain or torch.jit.is_tracing() or torch.compiler.is_compiling()):
        box = rois[:, 1:].detach() * spatial_scale - (0.5 if aligned else 0)
        sides = [
            _side(box[:, axis], box[:, axis + 2], feats.shape[3 - axis], output_size[1 - axis], sampling_ratio, aligned)
            for axis in (1, 0)
        ]
        if None not in sides:
            return _RoIAlign.apply(feats, rois[:, 0].long().tolist(), *sides)
    return torchvision.ops.roi_align(feats, rois, output_size, spatial_scale, sampling_ratio, aligned)


def _side(
    start: Tensor, end: Tensor, size: int, bins: int, ratio: int, aligned: bool
) -> tuple[list[int], list[int], Tensor] | None:
    """Along one side of all regions the first cell and the one after the last, and the cells' weights (K, bins, L).

    Args:
        start, end: (K,) in cells.
        size: of the map.

    Returns:
        None where there are more than :data:`MAX_POINTS`.
    """
    length = end - start if aligned else (end - start).clamp(min=1)
    points = (torch.full_like(length, ratio) if ratio > 0 else (length / bins).ceil()).nan_to_num(0, 0, 0)
    most = max(points.max().item(), 1) if len(points) else 1
    if most * bins * len(points) > MAX_POINTS:
        return None
    step, points = (length / bins)[:, None, None], points[:, None, None]
    place = torch.arange(most, device=start.device)
    at = start[:, None, None] + torch.arange(bins)[:, None] * step + (place + 0.5) * step / points
    inside = (place < points) & (at >= -1) & (at <= size)  # of a point further out nothing counts
    at = torch.where(inside, at.clamp(0, size - 1), 0)
    low = at.long()
    first = torch.where(inside, low, size - 1).flatten(1).amin(1)
    stop = torch.where(inside, (low + 2).clamp(max=size), 0).flatten(1).amax(1).maximum(first + 1)
    share = inside / points.clamp(min=1)
    weights = share.new_zeros(len(start), bins, int((stop - first).max()) + 1 if len(start) else 1)
    column = (low - first[:, None, None]).clamp(min=0)
    weights.scatter_add_(2, column, share * (1 - (at - low)))
    weights.scatter_add_(2, column + 1, share * (at - low))
    return first.tolist(), stop.tolist(), weights


class _RoIAlign(torch.autograd.Function):
    """Rows first, then columns: both factors are matrices in the map's own memory, if that is channels-last."""

    @staticmethod
    def forward(ctx, feats: Tensor, images: list[int], rows: tuple, columns: tuple) -> Tensor:
        ctx.parts, ctx.shape = (images, rows, columns), feats.shape
        number, channels, height, width = feats.shape
        maps = feats.permute(0, 2, 3, 1).reshape(number, height, width * channels)
        by_row, by_column = rows[-1], columns[-1]
        out = maps.new_empty(len(images), by_row.shape[1], by_column.shape[1], channels)
        with torch.autocast('cpu', enabled=False):
            for i, (image, top, bottom, left, right) in enumerate(zip(images, *rows[:2], *columns[:2])):
                cells = maps[image, top:bottom, left * channels : right * channels]
                part = torch.mm(by_row[i, :, : bottom - top], cells).view(-1, right - left, channels)
                torch.matmul(by_column[i, :, : right - left], part, out=out[i])
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        images, rows, columns = ctx.parts
        number, channels, height, width = ctx.shape
        by_row, by_column = rows[-1], columns[-1]
        grad = grad.permute(0, 2, 3, 1).contiguous()
        maps = grad.new_zeros(number, height, width * channels)
        for i, (image, top, bottom, left, right) in enumerate(zip(images, *rows[:2], *columns[:2])):
            part = torch.matmul(by_column[i, :, : right - left].t(), grad[i]).flatten(1)
            cells = maps[image, top:bottom, left * channels : right * channels]
            cells.addmm_(by_row[i, :, : bottom - top].t(), part)
        return maps.view(number, height, width, channels).permute(0, 3, 1, 2), None, None, None
