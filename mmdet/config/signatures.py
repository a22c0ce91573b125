"""What classes and functions take, by their declarations."""

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType
from typing import Any

from mmdet.mmdetection.paths import methods
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


def check_overrides(kind: Any, path: str) -> None:
    """Look at the methods of a class of one's own that stand in place of ours, which are called as ours are.

    Raises:
        TypeError: one that takes fewer arguments than ours, or needs more.
    """
    classes = getattr(kind, '__mro__', ())
    for number, own in enumerate(classes):
        if _library(own):
            continue
        for name, method in vars(own).items():
            bases = (vars(base)[name] for base in classes[number + 1 :] if name in vars(base) and _ours(base))
            ours = next(bases, None)
            if name.startswith('__') or not inspect.isfunction(method) or not inspect.isfunction(ours):
                continue
            wanted, least, others = _places(ours)
            taken, needed, rest = _places(method)
            if (taken < wanted and not rest) or (needed > least and not others):
                raise TypeError(
                    f'{path}: {own.__name__}.{name}{inspect.signature(method)} stands in place of '
                    f"mmdetection's, which is called with {_words(ours)}"
                )


def idle_overrides(kind: Any) -> Iterator[str]:
    """Say which methods of a class of one's own mmdetection's class has, and nothing here calls."""
    classes = getattr(kind, '__mro__', ())
    ours = [one for one in classes if _ours(one)]
    own = {
        name: (one, method)
        for one in reversed(classes)
        if not _library(one)
        for name, method in vars(one).items()
        if inspect.isfunction(method)
    }
    for name, (one, _) in own.items() if ours else ():
        theirs = next((base for base in ours if name in methods().get(base.__name__, ())), None)
        if theirs is None or any(hasattr(base, name) for base in ours):
            continue
        if not any(
            name in _used(inspect.unwrap(method).__code__) for other, (_, method) in own.items() if other != name
        ):
            yield f"{one.__name__}.{name}: mmdetection's {theirs.__name__} has this method; here nothing calls it"


def _used(code: CodeType) -> set[str]:
    """The names of attributes and functions that code uses, in its own functions too."""
    inner = (_used(one) for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*inner)


def _library(kind: type) -> bool:
    return kind.__module__.partition('.')[0] in ('mmdet', 'mmengine', 'mmcv', 'torch', 'builtins')


def _ours(kind: type) -> bool:
    return kind.__module__.partition('.')[0] == 'mmdet'


def _places(function: Any) -> tuple[int, int, bool]:
    """How many arguments it takes, how many it needs, and whether it takes any number of others."""
    parameters = inspect.signature(function).parameters.values()
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return len(named), sum(one.default is one.empty for one in named), len(named) < len(parameters)


def _words(function: Any) -> str:
    return f'({", ".join(list(inspect.signature(function).parameters)[1:])})'


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
