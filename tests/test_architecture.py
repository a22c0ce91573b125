"""Imports run one way: a room imports from its own floor and from those below."""

import ast
import re

import pytest
from conftest import ROOT

FLOORS = {
    room: int(floor)
    for floor, rooms in re.findall(r'^\| (\d) \| (.+) \|$', (ROOT / 'docs/architecture.md').read_text(), re.M)
    for room in re.findall(r'`(\w+)`', rooms)
}
FILES = sorted(path for path in (ROOT / 'mmdet').rglob('*.py') if '.mim' not in path.parts)


def room_of(parts):
    return parts[0].removesuffix('.py') if parts else ''


def arrows(path):
    """The rooms that a file imports from, with the lines."""
    inside = path.relative_to(ROOT / 'mmdet').parts
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            above = list(inside[: len(inside) - node.level]) if node.level else []
            module = '.'.join(['mmdet', *above, *filter(None, [node.module])]) if node.level else node.module
            modules = [f'{module}.{alias.name}' if module == 'mmdet' else module for alias in node.names]
        for module in modules:
            if module.startswith('mmdet.'):
                yield module.split('.')[1], node.lineno


def test_every_room_has_a_floor():
    rooms = {room_of(path.relative_to(ROOT / 'mmdet').parts) for path in FILES} - {'__init__', '__main__'}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize('path', FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_no_import_goes_upward(path):
    room = room_of(path.relative_to(ROOT / 'mmdet').parts)
    if room in ('__init__', '__main__'):
        return
    wrong = [(other, line) for other, line in arrows(path) if FLOORS[other] > FLOORS[room]]
    assert not wrong, f'{path}: imports from above: {wrong}'


def test_rooms_of_one_floor_are_in_no_circle():
    seen = {}
    for path in FILES:
        room = room_of(path.relative_to(ROOT / 'mmdet').parts)
        seen.setdefault(room, set()).update(other for other, _ in arrows(path) if other != room)
    assert not [(a, b) for a in seen for b in seen[a] if a in seen.get(b, ())]
