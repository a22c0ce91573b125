"""Words for messages: the nearest of known names, values cut to a line, durations. The standard library alone."""

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """'; nearest: ...' with up to three of the known names, whatever their case, or ''."""
    lower: dict[str, str] = {}
    for other in known:
        lower.setdefault(other.lower(), other)
    found = [repr(lower[match]) for match in get_close_matches(name.lower(), lower, 3, cutoff)]
    return f'; nearest: {", ".join(found)}' if found else ''


def shorten(value: Any) -> str:
    """A value's type and text, however large or deep it is."""
    return f'{type(value).__name__} {reprlib.repr(value)}'


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type's name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def duration(seconds: float) -> str:
    """'0:01:05', '2d 03:04:05'."""
    seconds = int(max(seconds, 0) + 0.5)
    days, rest = divmod(seconds, 86400)
    hours, minutes, seconds = rest // 3600, rest // 60 % 60, rest % 60
    return (f'{days}d {hours:02d}' if days else str(hours)) + f':{minutes:02d}:{seconds:02d}'
