"""Types of boxes by name, and what turns one into another."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base_boxes import BaseBoxes

#: by name, in small letters
box_types: dict[str, type[BaseBoxes]] = {}
_box_type_to_name: dict[type[BaseBoxes], str] = {}
#: by 'SRC2DST'
box_converters: dict[str, Callable[[Tensor], Tensor]] = {}


def register_box(name: str, box_type: type[BaseBoxes] | None = None, force: bool = False) -> Any:
    """Give a type of boxes a name; a decorator of the class, or a call with ``box_type``.

    Raises:
        AssertionError: what is no subclass of :class:`.BaseBoxes`. KeyError: a name or a type that is there already,
            unless ``force``.
    """
    if box_type is None:
        return lambda kind: register_box(name, kind, force)
    assert isinstance(box_type, type) and issubclass(box_type, BaseBoxes), (
        f'register_box: must be a subclass of BaseBoxes, got {box_type}'
    )
    name = name.lower()
    if not force and (name in box_types or box_type in _box_type_to_name):
        raise KeyError(f'register_box: {name!r} or {box_type.__name__} is registered already')
    if name in box_types:
        _box_type_to_name.pop(box_types[name], None)
    box_types.pop(_box_type_to_name.pop(box_type, ''), None)
    box_types[name], _box_type_to_name[box_type] = box_type, name
    return box_type


def register_box_converter(
    src_type: str | type, dst_type: str | type, converter: Callable[[Tensor], Tensor] | None = None, force: bool = False
) -> Any:
    """Say how tensors of one type of boxes become those of another; a decorator, or a call with ``converter``.

    Raises:
        AssertionError: a type that is not registered, or what cannot be called. KeyError: there is one already, unless
            ``force``.
    """
    if converter is None:
        return lambda function: register_box_converter(src_type, dst_type, function, force)
    assert callable(converter), f'register_box_converter: must be a function, got {converter!r}'
    key = f'{get_box_type(src_type)[0]}2{get_box_type(dst_type)[0]}'
    if key in box_converters and not force:
        raise KeyError(f'register_box_converter: {key!r} is registered already')
    box_converters[key] = converter
    return converter


def get_box_type(box_type: str | type) -> tuple[str, type[BaseBoxes]]:
    """Return name and class of a type of boxes, given by either.

    Raises:
        AssertionError: it is not registered.
    """
    name = box_type.lower() if isinstance(box_type, str) else _box_type_to_name.get(box_type, '')
    assert name in box_types, f'there are no boxes {box_type!r}; there are {", ".join(map(repr, box_types))}'
    return name, box_types[name]


def convert_box_type(boxes: Any, *, src_type: str | type | None = None, dst_type: str | type) -> Any:
    """Turn boxes into another type.

    Args:
        boxes: :class:`.BaseBoxes`, a tensor or an array (..., box_dim).
        src_type: of a tensor or an array.
        dst_type: the type wanted.

    Returns:
        What was given, if it is of the type; else :class:`.BaseBoxes`, a tensor or an array, as was given.

    Raises:
        AssertionError: a type that is not registered or not given, or no converter. TypeError: no boxes.
    """
    if not isinstance(boxes, (BaseBoxes, Tensor, np.ndarray)):
        raise TypeError(f'boxes must be BaseBoxes, a tensor or an array, got {type(boxes).__name__}')
    dst_name, dst_class = get_box_type(dst_type)
    assert isinstance(boxes, BaseBoxes) or src_type is not None, 'src_type: boxes of a tensor or an array need one'
    src_name, _ = get_box_type(type(boxes) if isinstance(boxes, BaseBoxes) else src_type)  # type: ignore[arg-type]
    if src_name == dst_name:
        return boxes
    key = f'{src_name}2{dst_name}'
    assert key in box_converters, f'there is no converter {key!r}; register_box_converter registers one'
    if isinstance(boxes, BaseBoxes):
        return dst_class(box_converters[key](boxes.tensor), clone=False)
    converted = box_converters[key](torch.as_tensor(boxes))
    return converted.numpy() if isinstance(boxes, np.ndarray) else converted


def autocast_box_type(dst_box_type: str = 'hbox') -> Callable:
    """Decorate a transform's ``transform``: ``results['gt_bboxes']`` as an array becomes boxes of a type before it.

    Args:
        dst_box_type: the type; a box has its ``box_dim`` numbers.
    """
    _, kind = get_box_type(dst_box_type)

    def decorator(function: Callable) -> Callable:
        @wraps(function)
        def wrapper(self: Any, results: dict, *args: Any, **kwargs: Any) -> Any:
            if 'gt_bboxes' in results and not isinstance(results['gt_bboxes'], BaseBoxes):
                boxes = np.asarray(results['gt_bboxes'])
                boxes = boxes if boxes.dtype.kind == 'f' else boxes.astype(np.float32)
                results['gt_bboxes'] = kind(boxes.reshape(-1, kind.box_dim))
            return function(self, results, *args, **kwargs)

        return wrapper

    return decorator
