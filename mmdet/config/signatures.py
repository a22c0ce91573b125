"""What classes and functions take, by their declarations."""

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mmdet.words import nearest, shorten

#: keys that are not the class's own: for the registry, an optimizer's constructor, the runner, a scheduler's builder
BUILDER = ('type', 'constructor', 'paramwise_cfg', 'priority', 'convert_to_iter_based')


def arguments(kind: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """The keyword arguments of a class or function by name, those that ``**kwargs`` hands on to a base class among
    them; and whether it takes any others."""
    known: dict[str, inspect.Parameter] = {}
    others = True
    functions = (
        [c.__dict__['__init__'] for c in kind.__mro__ if '__init__' in c.__dict__] if inspect.isclass(kind) else [kind]
    )
    for function in functions:
        if function is object.__init__:
            break
        parameters = inspect.signature(function).parameters
        known = {
            **{name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)},
            **known,
        }
        others = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
        if not others:
            break
    known.pop('self', None)
    return known, others and functions != [object.__init__]


def check_arguments(kind: Any, node: dict, path: str) -> None:
    """Look at the arguments that a config has for a class or function.

    Raises:
        TypeError: one that it does not take. ValueError: a text where its declaration wants a number or a truth value.
    """
    known, others = arguments(kind)
    if not others:
        check_keys(node, known, path, f'{kind.__name__} has no argument', BUILDER)
    for key, value in node.items():
        if isinstance(value, str) and key in known:
            wanted = _number(known[key])
            if wanted:
                raise ValueError(f'{path}.{key}: must be {wanted}, got {value!r}')


def check_keys(node: dict, known: Iterable[str], path: str, text: str, others: Sequence[str] = ()) -> None:
    """Raise TypeError for what is no dict, and for a key that is not known; ``text`` says of what."""
    if not isinstance(node, dict):
        raise TypeError(f'{path}: must be a dict, got {shorten(node)}')
    for key in node:
        if key not in known and key not in others and not str(key).startswith('_'):
            hint = nearest(str(key), sorted(known)) or f'; it has {", ".join(sorted(known)) or "none"}'
            raise TypeError(f'{path}: {text} {key!r}{hint}')


def _number(parameter: inspect.Parameter) -> str:
    """What a parameter is that takes no text: 'a number', 'True or False', or ''."""
    said = parameter.annotation
    if said is parameter.empty:
        said = type(parameter.default)
    words = set(re.findall(r'\w+', said.__name__ if isinstance(said, type) else str(said)))
    if words & {'str', 'Any', 'Callable', 'Path', 'Literal', 'object'} or not words & {'int', 'float', 'bool'}:
        return ''
    return 'True or False' if not words & {'int', 'float'} else 'a number'
