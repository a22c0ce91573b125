"""Nested values changed at random, for hypothesis."""
import copy

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def run(examples, strategy, function):
    """``function`` on so many examples, always the same ones; hypothesis reports the smallest that fails."""
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True,
              database=None)
    @given(strategy)
    def once(value):
        function(value)

    once()


def _places(node, path=()):
    yield path
    for key, value in (node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()):
        yield from _places(value, path + (key, ))


@st.composite
def mutated(draw, base, odd, most):
    """``base`` with up to ``most`` of its values replaced by one of ``odd``, removed, or doubled in their list."""
    data = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, most))):
        places = [path for path in _places(data) if path]
        if not places:
            break
        path = draw(st.sampled_from(places))
        node = data
        for key in path[:-1]:
            node = node[key]
        how = draw(st.sampled_from(['set', 'set', 'set', 'delete', 'double']))
        if how == 'set':
            node[path[-1]] = copy.deepcopy(draw(odd))
        elif how == 'delete':
            del node[path[-1]]
        elif isinstance(node, list):
            node.append(copy.deepcopy(node[path[-1]]))
    return data
