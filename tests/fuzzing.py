"""Nested values changed at random, for hypothesis."""

import contextlib
import copy

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def run(examples, strategy, function):
    """``function`` on so many examples, always the same ones; hypothesis reports the smallest that fails."""

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    @given(strategy)
    def once(value):
        function(value)

    once()


EXAMPLES = pytest.mark.parametrize('examples', [50, pytest.param(5000, marks=pytest.mark.slow)])


def odd_values(own, largest=2**40):
    """None, truth values, numbers, texts, and some of ``own``."""
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-largest, largest),
        st.integers(-2, 40),
        st.floats(),
        st.text(max_size=4),
        st.sampled_from([[], {}, [1], [[1]], 2**70, [None], *own]),
    )


def _places(node, path=()):
    yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from _places(value, path + (key,))


@st.composite
def changes(draw, base, odd, most):
    """Up to ``most`` changes in ``base``: (path, 'set', one of ``odd``), (path, 'delete') or (path, 'double')."""
    places = [path for path in _places(base) if path]
    drawn = []
    for _ in range(draw(st.integers(1, most))):
        path, how = draw(st.sampled_from(places)), draw(st.sampled_from(['set', 'set', 'set', 'delete', 'double']))
        drawn.append((path, how) + ((draw(odd),) if how == 'set' else ()))
    return drawn


def change(base, drawn):
    """``base`` with ``drawn`` changes; a place that an earlier one took away is passed over."""
    data = copy.deepcopy(base)
    for path, how, *value in drawn:
        node = data
        with contextlib.suppress(KeyError, IndexError, TypeError):
            for key in path[:-1]:
                node = node[key]
            if how == 'set':
                node[path[-1]] = copy.deepcopy(value[0])
            elif how == 'delete':
                del node[path[-1]]
            elif isinstance(node, list):
                node.append(copy.deepcopy(node[path[-1]]))
    return data


def mutated(base, odd, most):
    """``base`` with up to ``most`` changes."""
    return changes(base, odd, most).map(lambda drawn: change(base, drawn))


# -- a COCO annotation file, and what may stand in it instead

COUNTS = coco_mask.encode(np.asfortranarray(np.eye(24, 32, dtype=np.uint8)))['counts'].decode()


def annotations():
    boxes = [[2, 2, 10, 8], [5, 6, 12.5, 9], [0, 0, 20, 20]]
    masks = [
        [[2, 2, 12, 2, 12, 10, 2, 10]],
        dict(size=[24, 32], counts=[100, 20, 648]),
        dict(size=[24, 32], counts=COUNTS),
    ]
    return dict(
        images=[dict(id=i, file_name=f'{i}.png', height=24, width=32) for i in (1, 2, 3)],
        annotations=[
            dict(
                id=i,
                image_id=i % 3 + 1,
                category_id=i % 2 + 1,
                bbox=boxes[i % 3],
                area=80,
                iscrowd=int(i == 4),
                segmentation=masks[i % 3],
            )
            for i in range(6)
        ],
        categories=[dict(id=1, name='a'), dict(id=2, name='b')],
    )


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        [
            '',
            '\0',
            '../x',
            '9' * 50,
            [],
            {},
            [[]],
            [[[]]],
            [[1, 2, 3]],
            [[1, 2, 3, 4, 5, 6, 7]],
            2**63,
            -1,
            0,
            1e308,
            float('nan'),
            float('inf'),
            [float('nan')] * 4,
            [0, 0, 0, 0],
            [1e9, 1e9, 1, 1],
            [5, 5, -3, -3],
            [[float('nan')] * 6],
            [[1e9] * 8],
            [[-1e300, 0, 1e300, 0, 1, 1]],
            dict(size=[2**31, 2**31], counts='0'),
            dict(size=[24, 32], counts='000'),
            dict(size=[24, 32]),
            dict(size=[24, 32], counts='~~~~'),
            dict(size=[24, 32], counts=[768]),
            dict(size=[24, 32], counts=[2**40]),
            dict(counts=[1]),
        ]
    ),
)
