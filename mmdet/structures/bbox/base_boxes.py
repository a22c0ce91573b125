"""Boxes as objects that know how to move with an image."""

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

B = TypeVar('B', bound='BaseBoxes')


class BaseBoxes(metaclass=ABCMeta):
    """Holds boxes of one kind, (..., box_dim), as ``tensor``; most of a tensor's methods are there.

    Methods that end with an underscore change the boxes in place. The last dimension is always that of a box: what
    would change it, or take a part of it, is refused.

    Args:
        data: (..., box_dim).
        dtype, device: of the tensor; by default the data's, float32 of what is no tensor.
        clone: copy the data.

    Raises:
        AssertionError: data of another shape.
    """

    #: numbers of a box
    box_dim: int = 0

    def __init__(
        self,
        data: Tensor | np.ndarray | Sequence,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        clone: bool = True,
    ) -> None:
        if not isinstance(data, Tensor):
            data = torch.as_tensor(data) if isinstance(data, np.ndarray) else torch.tensor(data, dtype=torch.float32)
        data = data.to(device=device, dtype=dtype)
        if not data.numel():
            data = data.reshape(-1, self.box_dim)
        assert data.dim() >= 2 and data.shape[-1] == self.box_dim, (
            f'{type(self).__name__}: boxes must be (..., {self.box_dim}), got {tuple(data.shape)}'
        )
        self.tensor = data.clone() if clone else data

    def _like(self: B, data: Tensor) -> B:
        return type(self)(data, clone=False)

    def _taken(self, take: Callable[[Tensor], Any], what: str) -> Any:
        """Boxes of what ``take`` gives of the tensor, or a list of them, if each still has all its numbers in order."""
        numbers = torch.arange(self.box_dim, device=self.device)
        marks, taken = take(numbers.expand(self.shape).contiguous()), take(self.tensor)
        single = isinstance(taken, Tensor)
        for part in [marks] if single else marks:
            assert part.dim() and part.shape[-1] == self.box_dim and bool((part == numbers).all()), (
                f'{type(self).__name__}: {what} would take boxes apart, whose {self.box_dim} numbers come last'
            )
        whole = [
            self._like(part.reshape(1, -1) if part.dim() == 1 else part) for part in ([taken] if single else taken)
        ]
        return whole[0] if single else whole

    def convert_to(self, dst_type: str | type) -> 'BaseBoxes':
        """Return these boxes as another registered type, see :func:`.convert_box_type`."""
        from .box_type import convert_box_type

        return convert_box_type(self, dst_type=dst_type)

    def empty_boxes(self: B, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> B:
        """Return no boxes, (0, box_dim)."""
        return self._like(self.tensor.new_zeros(0, self.box_dim, dtype=dtype, device=device))

    def fake_boxes(
        self: B,
        sizes: tuple[int, ...],
        fill: float = 0,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> B:
        """Return boxes of one number, of shape ``sizes`` (..., box_dim)."""
        return self._like(self.tensor.new_full(sizes, fill, dtype=dtype, device=device))

    def __getitem__(self: B, index: Any) -> B:
        index = torch.as_tensor(index, device=self.device) if isinstance(index, np.ndarray) else index
        assert getattr(index, 'dtype', None) != torch.bool or index.dim() < self.tensor.dim(), (
            f'{type(self).__name__}: an index must take whole boxes'
        )
        return self._taken(lambda data: data[index], 'the index')

    def __setitem__(self: B, index: Any, values: B) -> None:
        assert type(values) is type(self), f'{type(self).__name__}: values must be of this type, got {type(values)}'
        self[index]  # refuses a part of a box
        self.tensor[index] = values.tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def __deepcopy__(self: B, memo: dict) -> B:
        copied = type(self)(self.tensor)
        memo[id(self)] = copied
        return copied

    def __repr__(self) -> str:
        return f'{type(self).__name__}(\n{self.tensor})'

    @property
    def device(self) -> torch.device:
        """Return the tensor's device."""
        return self.tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the tensor's dtype."""
        return self.tensor.dtype

    @property
    def shape(self) -> torch.Size:
        """Return the tensor's shape."""
        return self.tensor.shape

    def numpy(self) -> np.ndarray:
        """Return the boxes as an array, on the CPU and without gradient."""
        return self.tensor.detach().cpu().numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def flatten(self: B, start_dim: int = 0, end_dim: int = -2) -> B:
        """Return the boxes with these dimensions made one, by default all in front of the last: (N, box_dim)."""
        return self._taken(lambda data: data.flatten(start_dim, end_dim), 'flatten')

    @classmethod
    def cat(cls: type[B], box_list: Sequence[B], dim: int = 0) -> B:
        """Put boxes together along a dimension.

        Raises:
            ValueError: of none. AssertionError: along the last dimension.
        """
        return cls._join(torch.cat, box_list, dim, 0)

    @classmethod
    def stack(cls: type[B], box_list: Sequence[B], dim: int = 0) -> B:
        """Put boxes together along a new dimension.

        Raises:
            ValueError: of none. AssertionError: behind the last dimension.
        """
        return cls._join(torch.stack, box_list, dim, 1)

    @classmethod
    def _join(cls: type[B], join: Callable, box_list: Sequence[B], dim: int, new: int) -> B:
        if not len(box_list):
            raise ValueError(f'{cls.__name__}: there are no boxes to put together')
        last = box_list[0].tensor.dim() + new - 1
        assert dim % (last + 1) != last, f'{cls.__name__}: not along the last dimension, the numbers of a box'
        return cls(join([boxes.tensor for boxes in box_list], dim), clone=False)

    # -- of each kind -------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def centers(self) -> Tensor:
        """Return the boxes' centres (..., 2)."""

    @property
    @abstractmethod
    def areas(self) -> Tensor:
        """Return the boxes' areas (...)."""

    @property
    @abstractmethod
    def widths(self) -> Tensor:
        """Return the boxes' widths (...)."""

    @property
    @abstractmethod
    def heights(self) -> Tensor:
        """Return the boxes' heights (...)."""

    @abstractmethod
    def flip_(self, img_shape: tuple[int, int], direction: str = 'horizontal') -> None:
        """Mirror the boxes in an image (height, width), in place: 'horizontal', 'vertical' or 'diagonal'."""

    @abstractmethod
    def translate_(self, distances: tuple[float, float]) -> None:
        """Move the boxes by (x, y), in place."""

    @abstractmethod
    def clip_(self, img_shape: tuple[int, int]) -> None:
        """Move the boxes' corners into an image (height, width), in place."""

    @abstractmethod
    def rotate_(self, center: tuple[float, float], angle: float) -> None:
        """Turn the boxes around a centre (x, y) by degrees, clockwise, in place."""

    @abstractmethod
    def project_(self, homography_matrix: Tensor | np.ndarray) -> None:
        """Map the boxes by a homography (3, 3), in place."""

    @abstractmethod
    def rescale_(self, scale_factor: Sequence[float]) -> None:
        """Multiply the coordinates by (x, y), in place, as when the image is resized."""

    @abstractmethod
    def resize_(self, scale_factor: tuple[float, float]) -> None:
        """Multiply widths and heights by (x, y), in place; the centres stay."""

    @abstractmethod
    def is_inside(self, img_shape: tuple[int, int], all_inside: bool = False, allowed_border: int = 0) -> Tensor:
        """Return (...) bool, whether boxes reach into an image (height, width), or lie in it wholly."""

    @abstractmethod
    def find_inside_points(self, points: Tensor, is_aligned: bool = False) -> Tensor:
        """Return which of points (M, 2) lie in which of N boxes, (M, N) bool; if aligned, M = N, in its own, (M,)."""

    @staticmethod
    @abstractmethod
    def overlaps(
        boxes1: 'BaseBoxes', boxes2: 'BaseBoxes', mode: str = 'iou', is_aligned: bool = False, eps: float = 1e-6
    ) -> Tensor:
        """Return the overlaps of boxes, as :func:`.bbox_overlaps`."""

    @staticmethod
    @abstractmethod
    def from_instance_masks(masks: Any) -> 'BaseBoxes':
        """Return the boxes around N masks."""


def _delegate(name: str, call: Callable[[Any, Callable[[Tensor], Any], str], Any]) -> None:
    def method(self: BaseBoxes, *args: Any, **kwargs: Any) -> Any:
        return call(self, lambda data: getattr(data, name)(*args, **kwargs), name)

    method.__name__, method.__doc__ = name, f'As ``torch.Tensor.{name}``.'
    setattr(BaseBoxes, name, method)


for _name in ('new_tensor', 'new_full', 'new_empty', 'new_ones', 'new_zeros', 'size', 'dim', 'numel'):
    _delegate(_name, lambda boxes, take, name: take(boxes.tensor))
for _name in ('to', 'cpu', 'cuda', 'clone', 'detach'):
    _delegate(_name, lambda boxes, take, name: boxes._like(take(boxes.tensor)))
for _name in (
    *('view', 'reshape', 'expand', 'repeat', 'transpose', 'permute', 'squeeze', 'unsqueeze'),
    *('split', 'chunk', 'unbind'),
):
    _delegate(_name, BaseBoxes._taken)
