"""Configs by name."""

from pathlib import Path

from mmdet.words import nearest

#: of a checkout; an installed package has none
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def config_names() -> dict[str, list[Path]]:
    """The configs of this repository by file name without ending; there may be several with one name."""
    found: dict[str, list[Path]] = {}
    for path in sorted(CONFIGS.rglob('*.py')):
        if path.relative_to(CONFIGS).parts[0] not in ('_base_', 'common'):
            found.setdefault(path.stem, []).append(path)
    return found


def find_config(name: str) -> Path:
    """The config with this name.

    Raises:
        FileNotFoundError: ``name`` looks like a path, or there are no configs beside the package.
        KeyError: there is no such config, and the nearest names are said; or there are several.
    """
    names = config_names()
    if len(names.get(name, ())) > 1:
        raise KeyError(
            f'model {name!r}: several configs have this name; give the path of one: {", ".join(map(str, names[name]))}'
        )
    if name in names:
        return names[name][0]
    if name.endswith(('.py', '.json', '.yaml', '.yml')) or '/' in name or not names:
        raise FileNotFoundError(
            f'config {name}: no such file'
            + ('' if names else (f', and there are no configs in {CONFIGS}; give the path of a config file'))
        )
    raise KeyError(
        f'model {name!r}: no config has this name{nearest(name, names, 0.5)}. Give the name of one or the path of a '
        'config file'
    )
