"""The finished trainings of a grid, in one file."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmdet.config.text import differences
from mmdet.io.atomic import write_atomic

KIND = 'mmdet norm comparison'
#: what every cell has had from the beginning
FIELDS = {
    'norm': str,
    'batch_size': int,
    'seed': int,
    'metrics': dict,
    'curve': list,
    'losses': list,
    'config': str,
    'cell_config': str,
    'command': str,
}


class Results:
    """The finished cells of a grid in one JSON file, written whole after each.

    ``data`` has ``cells`` (name and :func:`~mmdet.comparison.grid.cell_result`), ``failed`` (name and reason), and,
    once they are known, ``grid`` (what was asked for) and ``speed``
    (:func:`~mmdet.comparison.speed.measure_speed`).

    Args:
        path: of the file; read if it is there.

    Raises:
        ValueError: the file is not one of this kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict = dict(kind=KIND, cells={}, failed={})
        if path.is_file():
            try:
                self.data = _checked(json.loads(path.read_text()))
            except (ValueError, RecursionError) as error:
                raise ValueError(f'{path}: not a file of results of mmdet compare: {error}') from error

    @property
    def cells(self) -> dict[str, dict]:
        return self.data['cells']

    def add(self, name: str, result: dict) -> None:
        self.cells[name] = result
        self.data['failed'].pop(name, None)
        self.save()

    def fail(self, name: str, reason: str) -> None:
        self.data['failed'][name] = reason
        self.save()

    def save(self) -> None:
        write_atomic(to_text(self.data).encode(), self.path)

    def done(self, name: str, config: str, processes: int) -> bool:
        """Whether a cell is finished.

        Raises:
            ValueError: it was trained with another config, or on another number of processes.
        """
        if name not in self.cells:
            return False
        cell = self.cells[name]
        difference = next(differences(cell['config'], config), None)
        if cell.get('processes', 1) != processes:
            difference = f'--processes {cell.get("processes", 1)}, now {processes}'
        if difference:
            raise ValueError(
                f'{self.path}: {name} was trained with another config ({difference}); compare under another --work-dir'
            )
        return True


def to_text(data: dict) -> str:
    """The results as JSON, a line for each cell; what the configs of the cells have in common stands once."""
    parts: dict[str, int] = {}
    lines = []
    for name, cell in data['cells'].items():
        texts = re.split(r'(?m)^(?=\w)', cell['config'])
        packed = dict(cell, config=[parts.setdefault(text, len(parts)) for text in texts])
        lines.append(f'{json.dumps(name)}:{json.dumps(packed, separators=(",", ":"))}')
    rest = {**{key: value for key, value in data.items() if key != 'cells'}, 'config_parts': list(parts)}
    body = ',\n'.join(lines)
    return f'{json.dumps(rest, indent=1)[:-2]},\n "cells": {{\n{body}\n}}}}\n'


def show(path: Path, write: Callable[[dict], Any]) -> Any:
    """``write`` of a file of results that may be a stranger's, or edited.

    Raises:
        ValueError: the file is not one of this kind, or holds what cannot be shown; names the cell, if it is one.
    """
    data = Results(path).data
    try:
        return write(data)
    except OSError:
        raise
    except Exception as error:  # anything can be in the file
        bad = 'grid, speed or failed'
        for name, cell in data['cells'].items():
            try:
                write(dict(kind=KIND, cells={name: cell}, failed={}))
            except Exception:
                bad = f'cells, {name}'
                break
        raise ValueError(f'{path}: {bad}: holds what cannot be shown ({type(error).__name__}: {error})') from error


def _checked(data: Any) -> dict:
    if not isinstance(data, dict) or data.get('kind') != KIND:
        raise ValueError(f'"kind" is not "{KIND}"')
    for key in ('cells', 'failed'):
        if not isinstance(data.setdefault(key, {}), dict):
            raise ValueError(f'"{key}" is no object')
    parts = data.pop('config_parts', None)
    for name, cell in data['cells'].items():
        if parts is not None and isinstance(cell, dict) and isinstance(cell.get('config'), list):
            try:
                cell['config'] = ''.join(parts[index] for index in cell['config'])
            except (IndexError, KeyError, TypeError):
                raise ValueError(f'cells, {name}: "config" names parts that "config_parts" has not') from None
        for field, kind in FIELDS.items():
            if not isinstance(cell, dict) or not isinstance(cell.get(field), kind):
                raise ValueError(f'cells, {name}: "{field}" is missing or is no {kind.__name__}')
    return data
