"""Arguments of mmdetection's classes for what there is not here: accepted at their default, which asks for nothing."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

C = TypeVar('C', bound=type)


class ArgumentError(ValueError, AssertionError, KeyError):
    """An argument that a part refuses when it is built.

    mmdetection raises AssertionError or KeyError for the most of these; code of its users that catches them, or
    ValueError, works.
    """

    __str__ = Exception.__str__  # KeyError's is a repr


def accepts(*ignored: str, **defaults: Any) -> Callable[[C], C]:
    """Decorate a class that takes these arguments too, at their default, as attributes that nothing here reads.

    Any other value raises :class:`ArgumentError` when the class is built: it asks for what mmdetection has and is not
    here. What alone asks for nothing, such as the colour of a thing that there is not, is in ``ignored`` and can have
    any value.

    Example:
        >>> @accepts(plugins=None)
        ... class Backbone:
        ...     def __init__(self, depth):
        ...         self.depth = depth
        >>> Backbone(50, plugins=None).depth
        50
        >>> Backbone(50, plugins=[1])
        Traceback (most recent call last):
        ArgumentError: Backbone: mmdetection's plugins=[1] is not here; leave it out, or plugins=None
    """

    def decorate(cls: C) -> C:
        init = cls.__init__  # type: ignore[misc]

        @wraps(init)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            for name in ignored:
                kwargs.pop(name, None)
            for name, default in defaults.items():
                value = kwargs.pop(name, default)
                if value != default:
                    raise ArgumentError(
                        f"{type(self).__name__}: mmdetection's {name}={value!r} is not here; leave it out, or "
                        f'{name}={default!r}'
                    )
            init(self, *args, **kwargs)
            for name, default in defaults.items():
                if name not in self.__dict__:
                    setattr(self, name, default)

        signature = inspect.signature(init)
        own = list(signature.parameters.values())
        rest = [own.pop()] if own and own[-1].kind == inspect.Parameter.VAR_KEYWORD else []
        own += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in [*defaults.items(), *((name, None) for name in ignored)]
            if name not in signature.parameters
        ]
        __init__.__signature__ = signature.replace(parameters=own + rest)  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[misc]
        return cls

    return decorate
