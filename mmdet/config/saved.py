"""The config that a checkpoint holds: a stranger's, read without running it, built without importing anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from mmengine.registry import FUNCTIONS, Registry
from mmengine.registry import registry as engine

from mmdet import registry as own

from .check import tree, walk
from .text import config_values


def parse_config(text: str, source: str) -> Config:
    """A config from the text that mmengine writes into checkpoints.

    The text is read and not run: it holds assignments of plain values only.

    Args:
        source: where the text is from, for errors.

    Raises:
        ValueError: the text is anything else, or the config of mmdetection 2.x.
    """
    try:
        values = config_values(text)
        cfg = Config(values)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f'{source}: its config cannot be read ({error}); give the config file') from None
    if 'model' not in values or 'test_dataloader' not in values:
        raise ValueError(
            f"{source}: its config has no 'model' or no 'test_dataloader', as those of mmdetection 2.x; "
            'give the config file'
        )
    return cfg


def saved_config(checkpoint: dict, path: str) -> Config:
    """The config with which a checkpoint was trained; build its parts within :func:`no_imports` only.

    Args:
        checkpoint: its contents. path: of the file, for errors.

    Raises:
        ValueError: it holds none that can be read, or one that names what is no registered part.
    """
    text = (checkpoint.get('meta') or {}).get('cfg')
    if not isinstance(text, str):
        raise ValueError(f"checkpoint {path}: holds no config under meta['cfg']; give the config file")
    cfg = parse_config(text, f'checkpoint {path}')
    check_saved_config(cfg, f'checkpoint {path}')
    return cfg


def _registries() -> list[Registry]:
    return [value for value in vars(own).values() if isinstance(value, Registry)] + [FUNCTIONS]


def check_saved_config(cfg: Config, source: str) -> None:
    """Look at a config that may be a stranger's: text of a checkpoint, not a file that somebody chose to run.

    It may name registered parts only. The dotted path of such a part, as configs with classes in them are saved, is
    replaced by its name; nothing is imported.

    Args:
        source: where the config is from, for errors.

    Raises:
        ValueError: a ``type`` is a dotted path of anything else, or a scope has no registry here.
    """
    trees = [registry for parent in _registries() for registry in tree(parent)]
    for registry in trees:
        registry.import_from_location()
    scopes = {registry.scope for registry in trees}
    cfg._cfg_dict.pop('norm_cfgs', None)  # names for mmdet compare, timm's among them; nothing here builds them
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
        for registry in tree(parent)
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
