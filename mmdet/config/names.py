"""Configs by name."""

from pathlib import Path

from mmdet.words import nearest

#: in a clone a link to its configs/
CONFIGS = (Path(__file__).parents[1] / '.mim' / 'configs').resolve()
#: stems of files there that hold parts for configs beside them
PARTS = ('norms', 'schedule', 'schedule_1x')


def config_names() -> dict[str, list[Path]]:
    """The configs of this repository by file name without ending; there may be several with one name."""
    found: dict[str, list[Path]] = {}
    for path in sorted(CONFIGS.rglob('*.py')):
        if path.relative_to(CONFIGS).parts[0] not in ('_base_', 'common') and path.stem not in PARTS:
            found.setdefault(path.stem, []).append(path)
    return found


def find_config(name: str) -> Path:
    """The config with this name, with or without its folder and ending.

    Raises:
        FileNotFoundError: ``name`` looks like a path and there is no such file.
        KeyError: there is no such config, and the nearest names are said; or there are several.
    """
    bare = name.removeprefix('mmdet::').removeprefix('configs/')
    for path in (CONFIGS / bare, CONFIGS / f'{bare}.py'):
        if '/' in bare and path.is_file():
            return path
    bare, names = bare.removesuffix('.py'), config_names()
    found = names.get(bare, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise KeyError(
            f'config {name!r}: several configs have this name; give the path of one: {", ".join(map(str, found))}'
        )
    hint = nearest(Path(bare).name, names, 0.5)
    if '/' in name or name.endswith(('.py', '.json', '.yaml', '.yml')):
        raise FileNotFoundError(f'config {name}: no such file{hint}')
    raise KeyError(f'config {name!r}: no config has this name{hint}. Give the name of one or the path of a config file')
