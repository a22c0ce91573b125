"""How far a run is: one live line in a terminal, plain lines elsewhere.

A terminal gets the live line unless MMDET_PROGRESS=0, CI is set or TERM is 'dumb'. Files and pipes get plain lines.
"""

import atexit
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import NamedTuple, TypeVar, cast

from mmengine.logging import MMLogger
from rich.console import Console
from rich.live import Live
from rich.text import Text

from mmdet.words import duration

T = TypeVar('T')
#: seconds between two drawings of the live line, and between two plain lines
REDRAW, PLAIN = 0.2, 10
BAR = 20


def wants_live() -> bool:
    """Whether this process shows a live line: the first one, on a terminal, and nobody has said no."""
    env = os.environ
    return (
        sys.stdout.isatty()
        and env.get('RANK', '0') == '0'
        and env.get('MMDET_PROGRESS', '1') != '0'
        and env.get('CI', '').lower() in ('', '0', 'false')
        and env.get('TERM', 'dumb') not in ('dumb', 'unknown')
    )


class Field(NamedTuple):
    """A part of the line; where it is narrow, those of lower ``rank`` stay."""

    text: str
    rank: int
    style: str = ''


def fit(fields: Sequence[Field], width: int) -> Text:
    """The fields that fit into ``width`` columns, in the order in which they are given, two blanks between them."""
    kept, used = set(), -2
    for i in sorted(range(len(fields)), key=lambda i: fields[i].rank):
        used += len(fields[i].text) + 2
        if used > width:
            break
        kept.add(i)
    if not kept and fields:
        return Text(fields[0].text[:width], fields[0].style)
    return Text('  ').join(Text(field.text, field.style) for i, field in enumerate(fields) if i in kept)


def bar(share: float, ascii_only: bool = False) -> str:
    full = round(BAR * min(max(share, 0), 1))
    return '#' * full + '.' * (BAR - full) if ascii_only else '━' * full + '┈' * (BAR - full)


class Speed:
    """Images a second and seconds an iteration over the last 50 iterations; pauses outside ``start`` don't count."""

    def __init__(self) -> None:
        self._steps: deque = deque(maxlen=50)
        self.start()

    def start(self) -> None:
        self._last = time.perf_counter()

    def add(self, images: int) -> None:
        now = time.perf_counter()
        self._steps.append((now - self._last, images))
        self._last = now

    @property
    def seconds(self) -> float:
        return sum(step[0] for step in self._steps) / max(len(self._steps), 1)

    @property
    def images(self) -> float:
        return sum(step[1] for step in self._steps) / max(sum(step[0] for step in self._steps), 1e-9)


class _Above:
    """A stream whose lines appear above the live line, not wrapped but by the terminal itself."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> None:
        if text.endswith('\n'):
            text = text[:-1]
        self._console.print(Text.from_ansi(text), soft_wrap=True)

    def flush(self) -> None:
        pass


class LiveLine:
    """A line at the bottom of the terminal; prints, warnings and the logger's lines scroll by above it.

    It is drawn by the calls of :meth:`show` alone, without a thread: data loader workers are forked at any time. The
    cursor stays visible, so that a killed process leaves the terminal as it was.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._live = Live(console=self.console, auto_refresh=False, transient=True, redirect_stderr=sys.stderr.isatty())
        self._streams: list[tuple[logging.StreamHandler, object]] = []
        self._drawn = 0.0
        self._length = 0

    def start(self) -> None:
        terminal = {sys.stdout} | ({sys.stderr} if sys.stderr.isatty() else set())
        self._live.start()
        self.console.show_cursor(True)
        handlers = [
            handler for logger in [logging.root, *MMLogger._instance_dict.values()] for handler in logger.handlers
        ]
        for handler in handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in terminal:
                self._streams.append((handler, handler.setStream(_Above(self.console))))
        atexit.register(self.stop)

    @property
    def handlers(self) -> list[logging.Handler]:
        """The logging handlers that write to the terminal."""
        return [handler for handler, _ in self._streams]

    def due(self) -> bool:
        """Whether it is time to draw again."""
        return time.perf_counter() - self._drawn >= REDRAW

    def show(self, fields: Sequence[Field]) -> None:
        self._drawn = time.perf_counter()
        width = self.console.width
        rows = (self._length - 1) // width  # a terminal that was made narrower has wrapped the line
        if rows > 0:
            self.console.file.write(f'\r\x1b[{rows}A\x1b[J')
        text = fit(fields, width - 1)  # a full line makes some terminals wrap
        self._length = text.cell_len
        self._live.update(text, refresh=True)

    def bar(self, share: float) -> str:
        return bar(share, not self.console.encoding.startswith('utf'))

    def print(self, text: str) -> None:
        """A line above."""
        self.console.print(Text(text), soft_wrap=True)

    def stop(self) -> None:
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._streams.clear()
        self._live.stop()
        atexit.unregister(self.stop)


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield what is in ``iterable`` and show how much of it is done.

    Args:
        total: how many there are; by default ``len(iterable)``.
    """
    total = len(cast(Sized, iterable)) if total is None else total
    line = LiveLine() if wants_live() else None
    if line is None and os.environ.get('RANK', '0') != '0':
        yield from iterable
        return
    began = said = time.perf_counter()
    if line is not None:
        line.start()
    try:
        for done, item in enumerate(iterable, 1):
            yield item
            now = time.perf_counter()
            rate = done / max(now - began, 1e-9)
            left = f'ETA {duration((total - done) / rate)}'
            if line is not None and line.due():
                line.show(
                    [
                        Field(description, 0, 'bold'),
                        Field(line.bar(done / max(total, 1)), 4, 'cyan'),
                        Field(f'{done:{len(str(total))}d}/{total}', 1),
                        Field(f'{rate:.1f}/s', 3),
                        Field(left, 2),
                    ]
                )
            elif line is None and now - said > PLAIN:
                said = now
                print(f'{description}: {done}/{total}, {rate:.1f}/s, {left}', flush=True)
    finally:
        if line is not None:
            line.stop()
