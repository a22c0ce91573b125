"""Checks that a config names parts and arguments that there are, before anything is built."""

import inspect
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, Registry
from torch import nn

from mmdet import registry as own
from mmdet.words import nearest

#: where a part under this key is looked for, whatever section it is in
PLACES = {
    'init_cfg': (own.WEIGHT_INITIALIZERS,),
    'dataset': (own.DATASETS,),
    'datasets': (own.DATASETS,),
    'pipeline': (own.TRANSFORMS,),
    'transforms': (own.TRANSFORMS,),
    'batch_sampler': (own.DATA_SAMPLERS,),
    'collate_fn': (FUNCTIONS,),
    'metrics': (own.METRICS,),
    'optimizer': (own.OPTIMIZERS,),
    'vis_backends': (own.VISBACKENDS,),
}
MODEL = (own.MODELS, own.TASK_UTILS)
#: sections besides the model's and the parts' (train, val, test)
SECTIONS = {
    'default_hooks': (own.HOOKS,),
    'custom_hooks': (own.HOOKS,),
    'visualizer': (own.VISUALIZERS,),
    'log_processor': (own.LOG_PROCESSORS,),
}
TRAINING = {'optim_wrapper': (own.OPTIM_WRAPPERS,), 'param_scheduler': (own.PARAM_SCHEDULERS,)}
#: dicts of the model that no registry builds; the part that reads them checks them
PLAIN = ('norm_cfg', 'roi_layer', 'upsample_cfg', 'metainfo')
#: of train_cfg and test_cfg, which detections use first in a validation
NUMBERS = {
    **dict.fromkeys(('score_thr', 'iou_threshold', 'mask_thr_binary', 'min_bbox_size'), (int, float)),
    **dict.fromkeys(('max_per_img', 'nms_pre'), (int,)),
}
NMS = ('nms', 'soft_nms')
#: keys that are not the class's own: for the registry, and for the constructor of an optimizer's wrapper
BUILDER = ('type', 'constructor', 'paramwise_cfg')


def walk(node: Any, path: str = '') -> Iterator[tuple[str, dict]]:
    """Every dict in a config with its dotted key path."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from walk(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from walk(value, f'{path}.{i}')


def check_model_config(cfg: Config) -> None:
    """Look at ``cfg.model`` before it is built.

    Raises:
        KeyError: no model; a part, or a kind of norm, that there is not, with its key path and the nearest names.
        TypeError: an argument that a class of mmdet does not have. ValueError: a norm's value out of range; a class
            or function that no registry holds.
    """
    if 'model' not in cfg:
        raise KeyError(f"{_name(cfg)}: has no key 'model'")
    model = _plain(cfg.model)
    if not isinstance(model, dict):
        raise ValueError(f"{_name(cfg)}, model: must be a dict with the key 'type', got {model!r}")
    for path, node in walk(model, 'model'):
        norm = node.get('norm_cfg')
        if norm is not None:
            groups = norm.get('num_groups', 1) if isinstance(norm, dict) else 1
            try:
                own.build_norm_layer(norm, groups)
            except Exception as error:
                raise _as(error)(f'{_name(cfg)}, {path}.norm_cfg: {_words(error)}') from None
    _check(model, f'{_name(cfg)}, model', MODEL)
    for part in ('train_cfg', 'test_cfg'):
        for path, node in walk(model.get(part), f'model.{part}'):
            for key, value in node.items():
                if key in NUMBERS and (isinstance(value, bool) or not isinstance(value, NUMBERS[key])):
                    what = 'a number' if float in NUMBERS[key] else 'a whole number'
                    raise ValueError(f'{_name(cfg)}, {path}.{key}: must be {what}, got {value!r}')


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, of which :func:`check_model_config` has found no fault in names.

    Raises:
        KeyError, TypeError, ValueError, ImportError: what the parts say to a value, with the config's name and the
            part's key path.
    """
    try:
        return own.MODELS.build(cfg.model)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise _as(error)(f'{_name(cfg)}, {_failed_part(error, cfg)}: {_words(error)}') from error


def _as(error: Exception) -> type:
    known = (KeyError, TypeError, ValueError, ImportError, ModuleNotFoundError, FileNotFoundError)
    return type(error) if type(error) in known else ValueError


def _words(error: Exception) -> str:
    text = str(error.args[0] if error.args else error).strip()
    return text if type(error) is _as(error) else f'{type(error).__name__}: {text}'


def _failed_part(error: Exception, cfg: Config) -> str:
    """Key path of the innermost part that was being built."""
    found, trace, nodes = 'model', error.__traceback__, list(walk(_plain(cfg.model), 'model'))
    while trace is not None:
        if trace.tb_frame.f_code.co_name == 'build_from_cfg':
            built = trace.tb_frame.f_locals.get('cfg')
            if isinstance(built, dict):  # the config's dict, with keys that its parent has added
                found = next(
                    (
                        path
                        for path, node in nodes
                        if node
                        and path.startswith(found)
                        and all(built.get(key) == value for key, value in node.items())
                    ),
                    found,
                )
            else:
                found = next(
                    (
                        f'{found}.{key}'
                        for path, node in nodes
                        if path == found
                        for key, value in node.items()
                        if value == built and type(value) is type(built)
                    ),
                    found,
                )
        trace = trace.tb_next
    return found


def check_parts(cfg: Config, parts: Sequence[str]) -> None:
    """As :func:`check_model_config`, for everything that runs beside the model.

    Args:
        parts: the sections that will run, of 'train', 'val' and 'test'.
    """
    sections: dict[str, tuple] = dict(SECTIONS, **(TRAINING if 'train' in parts else {}))
    for part in parts:
        sections[f'{part}_dataloader'] = (own.DATA_SAMPLERS,)  # what PLACES does not name is the sampler
        sections[f'{part}_evaluator'] = (own.METRICS, own.EVALUATOR)
        sections[f'{part}_cfg'] = (own.LOOPS,)
    for key, registries in sections.items():
        _check(_plain(cfg.get(key)), f'{_name(cfg)}, {key}', registries)


def _name(cfg: Config) -> str:
    return f'config {cfg.filename}' if cfg.filename else 'config'


def _plain(node: Any) -> Any:
    """Dicts and lists without lazy objects."""
    return node.to_dict() if hasattr(node, 'to_dict') else node


def _check(node: Any, path: str, registries: Sequence[Registry]) -> None:
    if isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            _check(value, f'{path}.{i}', registries)
    if not isinstance(node, dict):
        return
    kind = node.get('type')
    if isinstance(kind, str):
        kind = next(filter(None, (_get(registry, kind) for registry in registries)), None)
        if kind is None:
            raise KeyError(_unknown(node['type'], path, registries))
    if kind is not None:
        if not any(
            kind is part for one in registries for registry in tree(one) for part in registry.module_dict.values()
        ):
            raise ValueError(
                f'{path}.type: {_full_name(kind)} is in no registry; a part of your own is to be '
                f'registered (@{registries[0].name.upper().replace(" ", "_")}S.register_module())'
            )
        package = getattr(kind, '__module__', '').partition('.')[0]
        if package == 'mmdet':
            _check_arguments(kind, node, path)
        else:
            # What another class makes of its arguments is unknown, but for mmengine's own keys.
            node = {key: value for key, value in node.items() if key in PLACES and package in ('mmengine', 'mmcv')}
    for key, value in node.items():
        if key == 'nms' and isinstance(value, dict):
            if value.get('type', 'nms') not in NMS:
                raise ValueError(f'{path}.nms.type must be one of {", ".join(NMS)}, got {value["type"]!r}')
        elif key not in PLAIN:
            _check(value, f'{path}.{key}', PLACES.get(key, registries))


def tree(registry: Registry) -> Iterator[Registry]:
    """A registry's ancestor without a parent, and all below it."""
    while registry.parent is not None:
        registry = registry.parent
    waiting = [registry]
    while waiting:
        registry = waiting.pop()
        yield registry
        waiting += registry.children.values()


def _full_name(kind: Any) -> str:
    return f'{getattr(kind, "__module__", "")}.{getattr(kind, "__qualname__", kind)}'


def _get(registry: Registry, kind: str) -> Any:
    try:
        return registry.get(kind)
    except (RuntimeError, TypeError, ValueError):  # what mmengine makes of odd names
        return None


def _unknown(kind: str, path: str, registries: Sequence[Registry]) -> str:
    names = []
    for registry in registries:
        while registry is not None:
            names += registry.module_dict
            registry = registry.parent
    scope, _, name = kind.rpartition('.')
    if scope not in ('', 'mmdet', 'mmengine', 'mmcv'):
        return f'{path}.type: there is no {kind!r}; is its package installed, and named in custom_imports?'
    return (
        f'{path}.type: there is no {kind!r}{nearest(name, names)}. A part of your own, or of another package, is '
        'to be named in custom_imports'
    )


def arguments(kind: Any) -> set[str] | None:
    """Names of the keyword arguments of a class or function, those that ``**kwargs`` hands on to a base class among
    them; None if it takes any."""
    names: set[str] = set()
    functions = (
        [c.__dict__['__init__'] for c in kind.__mro__ if '__init__' in c.__dict__] if inspect.isclass(kind) else [kind]
    )
    for function in functions:
        if function is object.__init__:
            break
        parameters = inspect.signature(function).parameters.values()
        names.update(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return names - {'self'}
    return set() if functions == [object.__init__] else None


def _check_arguments(kind: Any, node: dict, path: str) -> None:
    known = arguments(kind)
    for key in node:
        if known is not None and key not in known and key not in BUILDER and not key.startswith('_'):
            hint = nearest(key, sorted(known)) or f'; it has {", ".join(sorted(known)) or "none"}'
            raise TypeError(f'{path}: {kind.__name__} has no argument {key!r}{hint}')


# -- what a run will need ------------------------------------------------------------------------------------------


def check_config(cfg: Config, parts: tuple[str, ...]) -> None:
    """Look at what a run will need before it writes anything.

    Args:
        cfg: the merged config.
        parts: the sections that will run, of 'train', 'val' and 'test'.

    Raises:
        KeyError, TypeError, ValueError: a part or an argument that there is not, a norm_cfg that cannot be built,
            named by its key path.
        FileNotFoundError: a data root, annotation file or image folder that is not there.
        ValueError: a head for another number of classes than the data set has.
    """
    check_model_config(cfg)
    check_parts(cfg, parts)
    for part in ('train', 'val', 'test'):
        keys = [f'{part}_dataloader', f'{part}_cfg', *(() if part == 'train' else [f'{part}_evaluator'])]
        none = [key for key in keys if cfg.get(key) is None]
        if none and len(none) < len(keys) and (part in parts or part == 'val' and 'train' in parts):
            raise ValueError(
                f'{_name(cfg)}: {", ".join(none)} {"is" if len(none) == 1 else "are"} None and '
                f'{", ".join(key for key in keys if key not in none)} not; set all of them, or none: --cfg-options '
                + ' '.join(f'{key}=None' for key in keys)
            )
    for part in parts:
        loader = cfg.get(f'{part}_dataloader')
        if loader is None:
            raise KeyError(f"config {cfg.filename}: has no key '{part}_dataloader'")
        _check_loader(f'{_name(cfg)}, {part}_dataloader', loader)
        for path, node in walk(loader.to_dict(), f'{part}_dataloader'):
            if 'ann_file' in node:
                _check_paths(cfg.filename, path, node)
                _check_classes(cfg, path, node)


def _check_loader(path: str, loader: dict) -> None:
    for key, least in (('batch_size', 1), ('num_workers', 0)):
        value = loader.get(key, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f'{path}.{key}: must be a whole number, {least} or more, got {value!r}')
    if not loader.get('num_workers', 0):
        for key in ('persistent_workers', 'prefetch_factor'):
            if loader.get(key):
                raise ValueError(f'{path}.{key}: {loader[key]!r} needs workers; set num_workers, or leave {key} out')


def _check_paths(config: str, path: str, dataset: dict) -> None:
    root = dataset.get('data_root') or ''
    wanted = [('data_root', root), ('ann_file', os.path.join(root, dataset['ann_file']))]
    wanted += [
        (f'data_prefix.{key}', os.path.join(root, value))
        for key, value in (dataset.get('data_prefix') or {}).items()
        if isinstance(value, str)
    ]
    for key, target in wanted:
        if target and '://' not in target and not os.path.exists(target):
            raise FileNotFoundError(
                f'config {config}, {path}.{key}: {target} does not exist. See INSTALL.md for the layout of the data, '
                f'or set the key, for instance --cfg-options {path}.data_root=...'
            )


def _check_classes(cfg: Config, path: str, dataset: dict) -> None:
    kind = own.DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else dataset.get('type')
    classes = (dataset.get('metainfo') or {}).get('classes') or getattr(kind, 'METAINFO', {}).get('classes')
    if not isinstance(classes, (list, tuple)):
        return
    for key, node in walk(cfg.model.to_dict().get('roi_head'), 'model.roi_head'):
        if node.get('num_classes', len(classes)) != len(classes):
            raise ValueError(
                f'config {cfg.filename}, {key}.num_classes: {node["num_classes"]}, but {path} has '
                f'{len(classes)} classes (metainfo.classes): {", ".join(map(repr, classes[:5]))}'
                f'{", ..." if len(classes) > 5 else ""}'
            )
