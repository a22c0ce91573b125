"""Masks of the objects of an image, as bitmaps or as polygons."""

from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
import torch
import torchvision
from torch import Tensor

from mmdet.structures.bbox import HorizontalBoxes

from .parts import MaskParts, nearest, whole
from .polygons import clip_polygon, polygons_to_bitmap

#: pixels of masks that are drawn at a time for a mask head's targets
DRAWN = 1 << 22
FLIPS = ('horizontal', 'vertical', 'diagonal')


class BitmapMasks:
    """Holds the masks of N objects of one image as an array of pixels.

    No method changes the masks. Indexing takes objects, by number, slice, indices or (N,) bool.

    Args:
        masks: (N, height, width) of 0 and 1, or a list of (height, width), or :class:`.MaskParts`, which become pixels
            where they are wanted.
        height, width: of the image in pixels.

    Raises:
        ValueError: masks of another size.

    Example:
        >>> import numpy as np
        >>> masks = BitmapMasks(np.ones((2, 4, 6)), height=4, width=6)
        >>> masks.flip('horizontal')[:1].resize((8, 12))
        BitmapMasks(1, height=8, width=12)
    """

    def __init__(self, masks: np.ndarray | Sequence[np.ndarray] | MaskParts, height: int, width: int) -> None:
        self.height, self.width = int(height), int(width)
        self._parts: MaskParts | None = None
        if isinstance(masks, MaskParts):
            self._parts = masks
            return
        masks = np.asarray(masks, dtype=np.uint8) if len(masks) else np.zeros((0, height, width), dtype=np.uint8)
        if masks.shape[1:] != (self.height, self.width):
            raise ValueError(f'BitmapMasks: height={height}, width={width} but masks of {masks.shape}')
        self._masks = masks

    @property
    def masks(self) -> np.ndarray:
        """Return the pixels (N, height, width), uint8 of 0 and 1; not a copy."""
        if self._parts is not None:
            pixels = np.zeros((len(self._parts), self.height, self.width), dtype=np.uint8)
            for i, out in enumerate(pixels):
                self._parts.draw(i, (0, self.height, 0, self.width), out)
            self._masks, self._parts = pixels, None
        return self._masks

    @masks.setter
    def masks(self, pixels: np.ndarray) -> None:
        self._masks, self._parts = pixels, None

    def _view(self, height: int, width: int, rows: np.ndarray, columns: np.ndarray) -> 'BitmapMasks':
        assert self._parts is not None
        return BitmapMasks(self._parts.view(rows, columns), height, width)

    def __len__(self) -> int:
        return len(self._masks if self._parts is None else self._parts)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({len(self)}, height={self.height}, width={self.width})'

    def __getitem__(self, index) -> 'BitmapMasks':
        index = index.cpu().numpy() if isinstance(index, Tensor) else index
        if self._parts is not None:
            return BitmapMasks(self._parts.choose(index), self.height, self.width)
        masks = self.masks[index]
        return BitmapMasks(masks[None] if masks.ndim == 2 else masks, self.height, self.width)

    @classmethod
    def cat(cls, masks: Sequence['BitmapMasks']) -> 'BitmapMasks':
        """Put the objects of several, all of one size, together.

        Raises:
            ValueError: of none. AssertionError: no list of this type.
        """
        _check_several(cls, masks)
        return cls(np.concatenate([m.masks for m in masks]), masks[0].height, masks[0].width)

    @classmethod
    def random(
        cls, num_masks: int = 3, height: int = 32, width: int = 32, dtype: type = np.uint8, rng: Any = None
    ) -> 'BitmapMasks':
        """Make up ``num_masks`` objects, for tests; ``rng`` is a seed, or what ``numpy.random.default_rng`` takes."""
        drawn = np.random.default_rng(rng).random((num_masks, height, width)) > 0.9
        return cls(drawn.astype(dtype), height, width)

    @property
    def areas(self) -> np.ndarray:
        """Return the area of each mask in pixels, (N,)."""
        return self.masks.sum((1, 2))

    def rescale(self, scale, interpolation: str = 'nearest') -> 'BitmapMasks':
        """Return the masks scaled as by ``mmcv.imrescale``: by a factor, or to the largest (long, short) sides."""
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width), interpolation)

    def resize(self, out_shape: tuple[int, int], interpolation: str = 'nearest') -> 'BitmapMasks':
        """Return the masks resized to ``out_shape`` (height, width)."""
        height, width = out_shape
        if (height, width) == (self.height, self.width):
            return self
        if self._parts is not None and interpolation == 'nearest':
            return self._view(height, width, nearest(self.height, height), nearest(self.width, width))
        masks = [mmcv.imresize(mask, (width, height), interpolation=interpolation) for mask in self.masks]
        return BitmapMasks(masks, height, width)

    def flip(self, flip_direction: str = 'horizontal') -> 'BitmapMasks':
        """Return the masks mirrored: left to right ('horizontal'), top to bottom ('vertical') or both ('diagonal')."""
        _check_direction(flip_direction)
        if self._parts is not None:
            rows, columns = np.arange(self.height), np.arange(self.width)
            rows = rows if flip_direction == 'horizontal' else rows[::-1]
            columns = columns if flip_direction == 'vertical' else columns[::-1]
            return self._view(self.height, self.width, rows, columns)
        axes: dict[str, int | tuple[int, int]] = dict(horizontal=2, vertical=1, diagonal=(1, 2))
        return BitmapMasks(np.ascontiguousarray(np.flip(self.masks, axes[flip_direction])), self.height, self.width)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> 'BitmapMasks':
        """Return the masks padded at the right and below to ``out_shape`` (height, width), which is no smaller."""
        height, width = out_shape
        if (height, width) == (self.height, self.width):
            return self
        if self._parts is not None and not pad_val and height >= self.height and width >= self.width:
            sides = ((self.height, height), (self.width, width))
            return self._view(height, width, *(np.pad(np.arange(a), (0, b - a), constant_values=-1) for a, b in sides))
        out = np.full((len(self), height, width), pad_val, dtype=np.uint8)
        out[:, : self.height, : self.width] = self.masks
        return BitmapMasks(out, height, width)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> 'BitmapMasks':
        """Return the masks at (top, left) of a larger image (expanded_h, expanded_w)."""
        sides = [(top, self.height, expanded_h), (left, self.width, expanded_w)]
        around = [(before, whole - before - own) for before, own, whole in sides]
        if self._parts is not None:
            places = [np.pad(np.arange(own), pad, constant_values=-1) for (_, own, _), pad in zip(sides, around)]
            return self._view(expanded_h, expanded_w, *places)
        return BitmapMasks(np.pad(self.masks, ((0, 0), *around)), expanded_h, expanded_w)

    def translate(
        self,
        out_shape: tuple[int, int],
        offset: float,
        direction: str = 'horizontal',
        border_value: int = 0,
        interpolation: str = 'bilinear',
    ) -> 'BitmapMasks':
        """Return the masks, cut or padded to a size, moved to the right or down.

        Args:
            out_shape: (height, width) of the result.
            offset: in pixels; below 0 to the left or up.
            direction: 'horizontal' or 'vertical'.
            border_value: of the pixels that come in.
            interpolation: as in ``mmcv.imtranslate``.
        """
        height, width = out_shape
        cut = self.masks[:, :height, :width]
        cut = np.pad(cut, ((0, 0), (0, height - cut.shape[1]), (0, width - cut.shape[2])))
        masks = [mmcv.imtranslate(mask, offset, direction, border_value, interpolation) for mask in cut]
        return BitmapMasks(masks, height, width)

    def crop(self, bbox: np.ndarray) -> 'BitmapMasks':
        """Return the part within a box (4,) in whole pixels, at least one; the box begins inside the image."""
        x1, y1, x2, y2 = np.clip(bbox, 0, [self.width, self.height] * 2).astype(int)
        width, height = max(x2 - x1, 1), max(y2 - y1, 1)
        if self._parts is not None:
            rows, columns = np.arange(self.height)[y1 : y1 + height], np.arange(self.width)[x1 : x1 + width]
            if (len(rows), len(columns)) == (height, width):
                return self._view(height, width, rows, columns)
        return BitmapMasks(self.masks[:, y1 : y1 + height, x1 : x1 + width], height, width)

    def crop_and_resize(
        self, bboxes: np.ndarray, out_shape: tuple[int, int], inds: np.ndarray, device: str | torch.device = 'cpu'
    ) -> 'BitmapMasks':
        """Cut masks to boxes and resize them by RoIAlign, as targets of a mask head.

        Args:
            bboxes: (P, 4) in pixels.
            out_shape: (height, width) of the results.
            inds: (P,), which mask each box cuts.
            device: where it is computed.

        Returns:
            P masks; a pixel is set where the mean is at least a half, and none where a box is not finite or its corners
            are swapped.
        """
        return BitmapMasks(self.crop_to_tensor(bboxes, out_shape, inds, device).cpu().numpy(), *out_shape)

    def crop_to_tensor(
        self, bboxes: np.ndarray, out_shape: tuple[int, int], inds: np.ndarray, device: str | torch.device = 'cpu'
    ) -> Tensor:
        """Do :meth:`crop_and_resize`, but return a tensor (P, height, width), bool, on ``device``."""
        if not len(bboxes):
            return torch.zeros(0, *out_shape, dtype=torch.bool, device=device)
        boxes, inds = np.asarray(bboxes, dtype=np.float32), np.asarray(inds).reshape(-1)
        sound = np.isfinite(boxes).all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1)
        parts = whole(self.masks) if self._parts is None else self._parts
        found = torch.zeros(len(boxes), *out_shape, dtype=torch.bool, device=device)
        # A mean may be a half but for rounding, as often at an object's own box: torchvision's order of operations, in
        # the image's coordinates, gives mmdetection's targets to the bit.
        used = np.unique(inds[sound])
        for some in np.array_split(used, len(used) * self.height * self.width // DRAWN + 1):
            rows = np.flatnonzero(sound & np.isin(inds, some))
            if not len(rows):
                continue
            pixels = torch.from_numpy(parts.choose(some).seen_by(boxes[rows])).to(device=device, dtype=torch.float32)
            own = np.concatenate([np.searchsorted(some, inds[rows])[:, None], boxes[rows]], 1)
            regions = torch.as_tensor(own, dtype=torch.float32, device=device)
            means = torchvision.ops.roi_align(pixels[:, None], regions, out_shape, 1.0, -1, True)[:, 0]
            found[torch.from_numpy(rows).to(device)] = means >= 0.5
        return found

    def get_bboxes(self, dst_type: str | type = 'hbox') -> Any:
        """Return the masks' bounding boxes (N, 4), zeros for an empty mask, by default :class:`.HorizontalBoxes`."""
        boxes = np.zeros((len(self), 4), dtype=np.float32)
        for box, mask in zip(boxes, self.masks):
            columns, rows = mask.any(0).nonzero()[0], mask.any(1).nonzero()[0]
            if len(columns):
                box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return HorizontalBoxes(boxes, clone=False).convert_to(dst_type)

    def to_ndarray(self) -> np.ndarray:
        """Return the masks as an array (N, height, width), uint8 of 0 and 1; it is not copied."""
        return self.masks

    def to_tensor(self, dtype: torch.dtype, device: str | torch.device) -> Tensor:
        """Return the masks as a tensor (N, height, width) of a dtype on a device."""
        return torch.as_tensor(self.masks, dtype=dtype, device=device)


class PolygonMasks:
    """Holds N objects of one image as polygons.

    It has the methods of :class:`BitmapMasks`. Polygons lose nothing when they are resized; they are drawn at the end.

    Args:
        masks: for each object a list of polygons, (2 K,) each, x1, y1, x2, y2, ... in pixels; kept as float64.
        height, width: of the image in pixels.

    Example:
        >>> import numpy as np
        >>> square = PolygonMasks([[np.array([0, 0, 4, 0, 4, 4, 0, 4])]], height=6, width=8)
        >>> square.areas
        array([16.])
        >>> int(square.resize((12, 16)).to_ndarray().sum())
        64
    """

    def __init__(self, masks: Sequence[Sequence[np.ndarray]], height: int, width: int) -> None:
        self.height, self.width = int(height), int(width)
        self.masks = [[np.asarray(polygon, dtype=np.float64) for polygon in polygons] for polygons in masks]

    def __len__(self) -> int:
        return len(self.masks)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({len(self)}, height={self.height}, width={self.width})'

    def __getitem__(self, index) -> 'PolygonMasks':
        index = (
            index.cpu().numpy()
            if isinstance(index, Tensor)
            else np.asarray(index if not isinstance(index, slice) else np.arange(len(self))[index])
        )
        chosen = np.arange(len(self))[index].reshape(-1)
        return PolygonMasks([self.masks[i] for i in chosen], self.height, self.width)

    def _map(self, change, height: int | None = None, width: int | None = None) -> 'PolygonMasks':
        masks = [[change(polygon.reshape(-1, 2)).reshape(-1) for polygon in polygons] for polygons in self.masks]
        return PolygonMasks(masks, height or self.height, width or self.width)

    @classmethod
    def cat(cls, masks: Sequence['PolygonMasks']) -> 'PolygonMasks':
        """Put the objects of several, all of one size, together.

        Raises:
            ValueError: of none. AssertionError: no list of this type.
        """
        _check_several(cls, masks)
        return cls([polygons for m in masks for polygons in m.masks], masks[0].height, masks[0].width)

    @classmethod
    def random(
        cls,
        num_masks: int = 3,
        height: int = 32,
        width: int = 32,
        n_verts: int = 5,
        dtype: type = np.float32,
        rng: Any = None,
    ) -> 'PolygonMasks':
        """Make up ``num_masks`` objects of a polygon with ``n_verts`` points, for tests; ``rng`` as of BitmapMasks."""
        points = np.random.default_rng(rng).random((num_masks, n_verts, 2)) * [width, height]
        return cls([[own.reshape(-1).astype(dtype)] for own in points], height, width)

    @property
    def areas(self) -> np.ndarray:
        """Return each object's area in square pixels, (N,), by the shoelace formula: the sum over its polygons."""

        def area(polygon):
            x, y = polygon[0::2], polygon[1::2]
            return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2

        return np.array([sum(area(p) for p in polygons) for polygons in self.masks])

    def rescale(self, scale, interpolation: str | None = None) -> 'PolygonMasks':
        """Return the objects scaled by a factor, or to the largest (long, short) sides in pixels."""
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width))

    def resize(self, out_shape: tuple[int, int], interpolation: str | None = None) -> 'PolygonMasks':
        """Return the objects resized to an image of ``out_shape`` (height, width)."""
        height, width = out_shape
        factor = np.array([width / self.width, height / self.height])
        return self._map(lambda points: points * factor, height, width)

    def flip(self, flip_direction: str = 'horizontal') -> 'PolygonMasks':
        """Return the objects mirrored: left to right ('horizontal'), top to bottom ('vertical'), both ('diagonal')."""
        _check_direction(flip_direction)
        sign = np.array(dict(horizontal=(-1, 1), vertical=(1, -1), diagonal=(-1, -1))[flip_direction])
        side = np.where(sign < 0, [self.width, self.height], 0)
        return self._map(lambda points: side + sign * points)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> 'PolygonMasks':
        """Return the same objects in a larger image (height, width); ``pad_val`` is not used."""
        return PolygonMasks(self.masks, *out_shape)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> 'PolygonMasks':
        """Return the objects at (top, left) of a larger image (expanded_h, expanded_w)."""
        return self._map(lambda points: points + np.array([left, top]), expanded_h, expanded_w)

    def translate(
        self,
        out_shape: tuple[int, int],
        offset: float,
        direction: str = 'horizontal',
        border_value: int | None = None,
        interpolation: str | None = None,
    ) -> 'PolygonMasks':
        """Return the objects moved to the right or down by ``offset`` pixels, cut to ``out_shape`` (height, width).

        The last two arguments are for :class:`BitmapMasks`; what comes in is background.
        """
        height, width = out_shape
        move = np.array([offset, 0] if direction == 'horizontal' else [0, offset])
        limit = np.array([width, height])
        return self._map(lambda points: np.clip(points + move, 0, limit), height, width)

    def crop(self, bbox: np.ndarray) -> 'PolygonMasks':
        """Return the parts of the objects within a box (4,) in pixels; an object outside has no polygons."""
        x1, y1, x2, y2 = np.clip(bbox, 0, [self.width, self.height] * 2)
        width, height = max(int(x2 - x1), 1), max(int(y2 - y1), 1)
        parts = [
            [clip_polygon(polygon - np.tile([x1, y1], len(polygon) // 2), width, height) for polygon in polygons]
            for polygons in self.masks
        ]
        return PolygonMasks([[p for p in polygons if len(p) >= 6] for polygons in parts], height, width)

    def crop_and_resize(
        self, bboxes: np.ndarray, out_shape: tuple[int, int], inds: np.ndarray, device: str | torch.device = 'cpu'
    ) -> BitmapMasks:
        """Draw the parts of objects within boxes, as targets of a mask head.

        Args:
            bboxes: (P, 4) in pixels.
            out_shape: (height, width) of the results.
            inds: (P,), which object each box cuts.
            device: not used; it is drawn on the CPU.

        Returns:
            P masks.
        """
        height, width = out_shape
        out = []
        for (x1, y1, x2, y2), i in zip(bboxes, inds):
            # A box of less than a tenth of a pixel would scale without bound.
            factor = np.array([width / max(x2 - x1, 0.1), height / max(y2 - y1, 0.1)])
            polygons = [((p.reshape(-1, 2) - [x1, y1]) * factor).reshape(-1) for p in self.masks[i]]
            out.append(polygons_to_bitmap(polygons, height, width))
        return BitmapMasks(out, height, width)

    def crop_to_tensor(
        self, bboxes: np.ndarray, out_shape: tuple[int, int], inds: np.ndarray, device: str | torch.device = 'cpu'
    ) -> Tensor:
        """Do :meth:`crop_and_resize`, but return a tensor (P, height, width), bool, on a device."""
        return self.crop_and_resize(bboxes, out_shape, inds).to_tensor(torch.bool, device)

    def get_bboxes(self, dst_type: str | type = 'hbox') -> Any:
        """Return the objects' bounding boxes (N, 4), zeros without polygons, by default :class:`.HorizontalBoxes`."""
        boxes = np.zeros((len(self), 4), dtype=np.float32)
        for box, polygons in zip(boxes, self.masks):
            if polygons:
                points = np.concatenate(polygons).reshape(-1, 2)
                box[:] = *points.min(0), *points.max(0)
        return HorizontalBoxes(boxes, clone=False).convert_to(dst_type)

    def to_ndarray(self) -> np.ndarray:
        """Return the objects as an array (N, height, width), uint8 of 0 and 1."""
        return self.to_bitmap().masks

    def to_bitmap(self) -> BitmapMasks:
        """Return the objects drawn, as :class:`BitmapMasks` of the same size."""
        return BitmapMasks(
            [polygons_to_bitmap(polygons, self.height, self.width) for polygons in self.masks], self.height, self.width
        )

    def to_tensor(self, dtype: torch.dtype, device: str | torch.device) -> Tensor:
        """Return the objects drawn, as a tensor (N, height, width) of a dtype on a device."""
        return self.to_bitmap().to_tensor(dtype, device)


def _check_several(kind: type, masks: Any) -> None:
    assert isinstance(masks, (list, tuple)), f'{kind.__name__}.cat: must be a list, got {type(masks).__name__}'
    if not masks:
        raise ValueError(f'{kind.__name__}.cat: there are no masks to put together')
    assert all(isinstance(one, kind) for one in masks), f'{kind.__name__}.cat: all must be of this type'


def _check_direction(direction: str) -> None:
    if direction not in FLIPS:
        raise ValueError(f'flip_direction must be one of {FLIPS}, got {direction!r}')
