"""Checks that a config names parts and arguments that there are, before anything is built."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, Registry
from mmengine.registry import registry as engine
from torch import nn

from mmdet import registry as own

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
    sections = dict(SECTIONS, **(TRAINING if 'train' in parts else {}))
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
            kind is part for one in registries for registry in _tree(one) for part in registry.module_dict.values()
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


# -- configs of strangers -----------------------------------------------------------------------------------------


def _registries() -> list[Registry]:
    return [value for value in vars(own).values() if isinstance(value, Registry)] + [FUNCTIONS]


def _tree(registry: Registry) -> Iterator[Registry]:
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


def check_saved_config(cfg: Config, source: str) -> None:
    """Look at a config that may be a stranger's: text of a checkpoint, not a file that somebody chose to run.

    It may name registered parts only. The dotted path of such a part, as configs with classes in them are saved, is
    replaced by its name; nothing is imported.

    Args:
        source: where the config is from, for errors.

    Raises:
        ValueError: a ``type`` is a dotted path of anything else, or a scope has no registry here.
    """
    trees = [registry for parent in _registries() for registry in _tree(parent)]
    for registry in trees:
        registry.import_from_location()
    scopes = {registry.scope for registry in trees}
    for path, node in walk(cfg._cfg_dict):
        for key in ('_scope_', 'default_scope'):
            if node.get(key) is not None and node[key] not in scopes:
                raise ValueError(_refusal(source, f'{path}.{key}'.lstrip('.'), node[key]))
        kind = node.get('type')
        if not isinstance(kind, str) or '.' not in kind:
            continue
        package, _, rest = kind.partition('.')
        if package in scopes and '.' not in rest:  # looked up in the registries only, see no_imports
            continue
        name = kind.rpartition('.')[2]
        found = next(
            (
                f'{registry.scope}.{key}'
                for registry in trees
                for key, part in registry.module_dict.items()
                if getattr(part, '__name__', None) == name and part.__module__.split('.')[0] == package
            ),
            None,
        )
        if found is None:
            raise ValueError(_refusal(source, f'{path}.type'.lstrip('.'), kind))
        node['type'] = found


def _refusal(source: str, path: str, value: Any) -> str:
    return (
        f'{source}: its config names {value!r} ({path}), which is no registered part; to import it could run any '
        'code, so it is refused. If you trust it, give the config file'
    )


@contextmanager
def no_imports() -> Iterator[None]:
    """Within, registries build what they hold already, and import nothing for a name in a config."""
    known = {
        package
        for parent in _registries()
        for registry in _tree(parent)
        for package in (registry.scope, *(location.partition('.')[0] for location in registry._locations))
    }
    load, look_up = engine.import_module, engine.get_object_from_string

    def load_known(name: str) -> Any:
        if name.partition('.')[0] not in known:
            raise ImportError(f"{name} is not imported for a config that may be a stranger's")
        return load(name)

    engine.import_module, engine.get_object_from_string = load_known, lambda name: None
    try:
        yield
    finally:
        engine.import_module, engine.get_object_from_string = load, look_up


def _get(registry: Registry, kind: str) -> Any:
    try:
        return registry.get(kind)
    except (RuntimeError, TypeError, ValueError):  # what mmengine makes of odd names
        return None


def _nearest(name: str, known: Sequence[str]) -> str:
    """'; nearest: ...' with up to three known names, or nothing."""
    lower = {}
    for other in known:
        lower.setdefault(other.lower(), other)
    found = [repr(lower[match]) for match in get_close_matches(name.lower(), lower, 3)]
    return f'; nearest: {", ".join(found)}' if found else ''


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
        f'{path}.type: there is no {kind!r}{_nearest(name, names)}. A part of your own, or of another package, is '
        'to be named in custom_imports'
    )


def arguments(kind: Any) -> set[str] | None:
    """Names of the keyword arguments of a class or function, those that ``**kwargs`` hands on to a base class among
    them; None if it takes any."""
    names = set()
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
            nearest = _nearest(key, sorted(known)) or f'; it has {", ".join(sorted(known)) or "none"}'
            raise TypeError(f'{path}: {kind.__name__} has no argument {key!r}{nearest}')
