"""Weights by the name of the config that they were trained with: model-index.yml knows where they are published."""

import os
from functools import cache, partial
from pathlib import Path

from mmengine.fileio import load

from mmdet.io.atomic import sha256
from mmdet.io.download import fetch
from mmdet.words import nearest

#: in a clone a link to its model-index.yml
INDEX = (Path(__file__).parents[1] / '.mim' / 'model-index.yml').resolve()


@cache
def published() -> dict[str, str]:
    """The URL, or the path from the index's folder, of the weights of each config, by its folder and name; '' where
    none are known."""
    parts = [load(str(INDEX.parent / part)) for part in load(str(INDEX))['Import']]
    return {model['Name']: model.get('Weights', '') for part in parts for model in part['Models']}


def place_of(name: str) -> str | None:
    """Where the weights of a config are published, '' if none are known, None if there is no such config."""
    bare = name.removeprefix('mmdet::').removeprefix('configs/')
    return max((place for key, place in published().items() if bare in (key, _last(key))), default=None)


def find_weights(name: str) -> str:
    """The file of the weights that are published for a config.

    Args:
        name: the config's, with or without its folder: 'mask-rcnn_r50_fpn_1x_coco'.

    Returns:
        A path in torch's cache, where the file is downloaded to unless it is there, or in this repository. The file's
        SHA-256 begins with the last 8 digits of its name.

    Raises:
        FileNotFoundError: no config has this name, or none are known for it; the nearest names that have
            some are said. The file is not there, and cannot be downloaded.
        ValueError: a file of this repository is damaged.
    """
    place = place_of(name)
    if not place:
        raise FileNotFoundError(f'checkpoint {name}: no such file{_hint(_last(name), place is not None)}')
    check = partial(_problem, place.removesuffix('.pth')[-8:])
    if '://' in place:
        return fetch(name, place, check, 'or give the path of another')
    path = str(INDEX.parent / place)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'checkpoint {name}: {path} is not there; {place} comes with the repository, not with the package. Give '
            'the path of a copy'
        )
    if check(path):
        raise ValueError(f'checkpoint {name}: {path} is damaged ({check(path)}); git checkout -- {place} restores it')
    return path


def _last(path: str) -> str:
    return path.rpartition('/')[2]


def _hint(word: str, is_config: bool) -> str:
    names = {_last(key): _last(place) for key, place in published().items() if place}
    near = nearest(word, names, 0.4)
    if is_config:
        return f', and for the config of this name no published weights are known{near}. Give the path of a checkpoint'
    if '.' not in word:
        return f', and no config with published weights has this name{near}'
    meant = [name for name, file in names.items() if word == file or os.path.splitext(word)[0] == name]
    return f'; by name these weights are {meant[0]!r}' if meant else ''


def _problem(start: str, path: str) -> str:
    state = os.stat(path)
    found = _digest(path, state.st_ino, state.st_size, state.st_mtime_ns)
    return '' if found.startswith(start) else f'its SHA-256 begins with {found[:8]}, not with {start} as published'


@cache
def _digest(path: str, *version: int) -> str:
    """A file's SHA-256; ``version`` changes with the file."""
    with open(path, 'rb') as file:
        return sha256(file, os.path.getsize(path)).hexdigest()
