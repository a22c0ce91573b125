"""Weights as safetensors, a format that cannot hold code."""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor

#: of a checkpoint, as JSON among the file's metadata
META = 'meta'


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ImportError("safetensors must be installed: pip install 'mmdet-cbn[hub]'") from None


def read_safetensors(path: str, map_location: Any = 'cpu') -> dict:
    """Read a file of :func:`safetensors_bytes`, or any other one: then all its tensors are weights.

    Returns:
        A checkpoint: ``state_dict``, and ``meta``, {} where the file has none.

    Raises:
        ImportError: safetensors is not installed. ValueError: no such file format, cut off, or a ``meta`` that is no
            JSON object.
    """
    safetensors = _library('safetensors')
    device = map_location if isinstance(map_location, str) else 'cpu'
    try:
        with safetensors.safe_open(path, 'pt', device=device) as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}
            meta = json.loads((file.metadata() or {}).get(META, '{}'))
    except safetensors.SafetensorError as error:
        raise ValueError(f'checkpoint {path}: not a safetensors file, or cut off: {error}') from None
    except ValueError as error:
        raise ValueError(f'checkpoint {path}: its metadata {META!r} is no JSON: {error}') from None
    if not isinstance(meta, dict):
        raise ValueError(f'checkpoint {path}: its metadata {META!r} must be an object, got {type(meta).__name__}')
    about = meta.get('dataset_meta')
    if isinstance(about, dict) and isinstance(about.get('classes'), list):
        about['classes'] = tuple(about['classes'])  # as in all other checkpoints
    return dict(meta=meta, state_dict=weights)


def safetensors_bytes(weights: dict[str, Tensor], meta: dict) -> bytes:
    """The contents of a safetensors file of ``weights``, with ``meta``, which JSON can hold."""
    save: Callable = _library('safetensors.torch').save
    own = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    return save(own, metadata={'format': 'pt', META: json.dumps(meta)})
