"""Checks that a config names parts and arguments that there are, before anything is built."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import FUNCTIONS, Registry
from torch import nn

from mmdet import registry as own
from mmdet.words import nearest, shorten

from .sections import check_loader, check_plain, name_of, plain
from .signatures import arguments, check_arguments, check_overrides, idle_overrides

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
#: without bounds there is no threshold, as -1 means in mmdetection
RANGES = dict(score_thr=(-math.inf, 1), iou_threshold=(0, 1), mask_thr_binary=(-math.inf, 1))
NMS = ('nms', 'soft_nms')
#: what mmdetection's detectors have in train_cfg and test_cfg, some of it read by no part here
SETTINGS = (
    *('rpn', 'rcnn', 'rpn_proposal', 'assigner', 'sampler', 'allowed_border', 'pos_weight', 'debug', 'mask_size'),
    *('nms_pre', 'nms_post', 'max_per_img', 'max_num', 'nms', 'nms_thr', 'nms_across_levels', 'min_bbox_size'),
    *('score_thr', 'mask_thr_binary'),
)


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
        raise KeyError(f"{name_of(cfg)}: has no key 'model'")
    model = plain(cfg.model)
    if not isinstance(model, dict):
        raise ValueError(f"{name_of(cfg)}, model: must be a dict with the key 'type', got {model!r}")
    for path, node in walk(model, 'model'):
        norm = node.get('norm_cfg')
        if norm is not None:
            groups = norm.get('num_groups', 1) if isinstance(norm, dict) else 1
            try:
                own.build_norm_layer(norm, groups)
            except Exception as error:
                raise _as(error)(f'{name_of(cfg)}, {path}.norm_cfg: {_words(error)}') from None
    _check(model, f'{name_of(cfg)}, model', MODEL)
    for part in ('train_cfg', 'test_cfg'):
        for path, node in walk(model.get(part), f'model.{part}'):
            for key, value in node.items():
                near = '' if 'type' in node or key in SETTINGS else nearest(str(key), SETTINGS, 0.75)
                if near:
                    raise TypeError(f'{name_of(cfg)}, {path}: no part reads {key!r}{near}')
                if key in NUMBERS and (isinstance(value, bool) or not isinstance(value, NUMBERS[key])):
                    what = 'a number' if float in NUMBERS[key] else 'a whole number'
                    raise ValueError(f'{name_of(cfg)}, {path}.{key}: must be {what}, got {value!r}')
                if key in RANGES and not RANGES[key][0] <= value <= RANGES[key][1]:
                    low, high = RANGES[key]
                    bounds = f'{low} to {high}' if low >= 0 else f'at most {high}'
                    raise ValueError(f'{name_of(cfg)}, {path}.{key}: must be {bounds}, got {value!r}')


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
        raise _as(error)(f'{name_of(cfg)}, {_failed_part(error, cfg)}: {_words(error)}') from error


def _as(error: Exception) -> type:
    known = (KeyError, TypeError, ValueError, ImportError, ModuleNotFoundError, FileNotFoundError)
    return type(error) if type(error) in known else ValueError


def _words(error: Exception) -> str:
    text = str(error.args[0] if error.args else error).strip()
    return text if type(error) is _as(error) else f'{type(error).__name__}: {text}'


def _failed_part(error: Exception, cfg: Config) -> str:
    """Key path of the innermost part that was being built."""
    found, trace, nodes = 'model', error.__traceback__, list(walk(plain(cfg.model), 'model'))
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
        node = plain(cfg.get(key))
        members = list(node.values()) if key == 'default_hooks' and isinstance(node, dict) else node
        for one in members if isinstance(members, (list, tuple)) else ():
            if isinstance(one, dict) and 'type' not in one:
                raise KeyError(
                    f"{name_of(cfg)}, {key}: has no 'type' in {shorten(one)}, which none of the base has either"
                )
        _check(node, f'{name_of(cfg)}, {key}', registries)
    check_plain(cfg, 'train' in parts)


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
        if package in ('mmdet', 'mmengine', 'mmcv', 'torch'):
            check_arguments(kind, node, path)
        else:
            check_overrides(kind, path)
            for text in idle_overrides(kind):
                print_log(f'{path}: {text}', 'current', logging.WARNING)
        if package != 'mmdet':
            # What another class makes of its own arguments is unknown.
            ours = next((one for one in getattr(kind, '__mro__', ()) if one.__module__.startswith('mmdet.')), None)
            known = PLACES if package in ('mmengine', 'mmcv') else () if ours is None else arguments(ours)[0]
            node = {key: value for key, value in node.items() if key in known}
        elsewhere = getattr(kind, 'types_elsewhere', ())
        node = {key: value for key, value in node.items() if key not in elsewhere}
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
                f'{name_of(cfg)}: {", ".join(none)} {"is" if len(none) == 1 else "are"} None and '
                f'{", ".join(key for key in keys if key not in none)} not; set all of them, or none: --cfg-options '
                + ' '.join(f'{key}=None' for key in keys)
            )
    for part in parts:
        loader = cfg.get(f'{part}_dataloader')
        if loader is None:
            raise KeyError(f"config {cfg.filename}: has no key '{part}_dataloader'")
        check_loader(f'{name_of(cfg)}, {part}_dataloader', loader)
        for path, node in walk(loader.to_dict(), f'{part}_dataloader'):
            if 'ann_file' in node:
                _check_paths(cfg.filename, path, node)
                _check_classes(cfg, path, node)


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
