"""Files of other programs: written whole or not at all, and run."""

import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdet.io.atomic import replace_when_done, write_atomic

from .graph import DetectorGraph

#: format: ending of its files
FORMATS = {'onnx': '.onnx', 'torchscript': '.torchscript', 'pt2': '.pt2'}
#: of what is written into a file beside the graph
META = 'mmdet.json'
#: the largest side of an image that a graph of any size takes, in pixels
MOST = 16384

Run = Callable[[Tensor], tuple[Tensor, ...]]


def write_exported(graph: DetectorGraph, image: Tensor, path: str | Path, kind: str, dynamic: bool, meta: dict) -> None:
    """Write a detector as a file that runs without this package.

    Args:
        graph: in evaluation mode.
        image: (H, W, 3), for instance; without ``dynamic`` the graph takes this size alone.
        path: of the file.
        kind: a key of :data:`FORMATS`.
        dynamic: the graph takes images of any height and width from ``graph.least_side`` pixels on.
        meta: written into the file as JSON, by the name :data:`META` (in ONNX by its keys).

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ValueError: an image of less than ``graph.least_side`` pixels.
    """
    if min(image.shape[:2]) < graph.least_side:
        raise ValueError(
            f'export: images must have {graph.least_side} pixels or more on each side, got {image.shape[1]} x '
            f'{image.shape[0]} (width x height)'
        )
    text = json.dumps(meta)
    with torch.no_grad(), quiet():
        if kind == 'torchscript':
            buffer = io.BytesIO()
            torch.jit.save(torch.jit.trace(graph, image, check_trace=False), buffer, _extra_files={META: text})
            write_atomic(buffer.getvalue(), path)
            return
        sides = {
            i: torch.export.Dim(name, min=graph.least_side, max=MOST) for i, name in enumerate(('height', 'width'))
        }
        shapes = dict(image=sides) if dynamic else None
        program = torch.export.export(graph, (image,), dynamic_shapes=shapes, strict=False)
        if kind == 'pt2':
            buffer = io.BytesIO()
            torch.export.save(program, buffer, extra_files={META: text})
            write_atomic(buffer.getvalue(), path)
            return
        need('onnx', 'onnxscript')
        made: Any = torch.onnx.export(
            program, dynamo=True, input_names=['image'], output_names=graph.outputs, verbose=False
        )
    for part in made.model.graph.outputs:
        part.shape[0] = 'detections'
    for i, side in sides.items() if dynamic else ():
        made.model.graph.inputs[0].shape[i] = side.__name__
    made.model.metadata_props.update({key: json.dumps(value) for key, value in meta.items()})
    with replace_when_done(path) as temporary:
        made.save(temporary, external_data=False)


def load_exported(path: str | Path, kind: str, device: str | torch.device = 'cpu') -> Run:
    """Open a file of :func:`write_exported`; returns what takes an image (H, W, 3) to the graph's outputs.

    Raises:
        ImportError: ``onnxruntime`` is not installed.
    """
    if kind == 'torchscript':
        with quiet():
            script = torch.jit.load(str(path), map_location=device)
        return lambda image: script(image.to(device))
    if kind == 'pt2':
        program = torch.export.load(str(path)).module()
        return lambda image: program(image.to(device))
    need('onnxruntime')
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return lambda image: tuple(torch.from_numpy(part) for part in session.run(None, dict(image=image.cpu().numpy())))


def need(*packages: str) -> None:
    """Raise ImportError, with what to install, if a package is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"export: {' and '.join(missing)} must be installed: pip install 'mmdet-cbn[export]'")


@contextmanager
def quiet() -> Iterator[None]:
    """Within, the exporters' warnings of their own parts are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield
