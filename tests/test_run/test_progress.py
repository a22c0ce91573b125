"""What a terminal shows while the live line is on, and what a pipe gets."""

import io
import logging
import re
import sys

import pytest
from rich.console import Console

from mmdet.run import progress
from mmdet.run.progress import Field, LiveLine, Speed, fit, track, wants_live
from mmdet.words import duration

FIELDS = [
    Field('Epoch 3/12', 0),
    Field('#' * 20, 8),
    Field(' 120/4000', 1),
    Field('loss 1.2345', 2),
    Field('rpn_cls 0.123  rpn_bbox 0.123  cls 0.123  bbox 0.123  mask 0.123', 9),
    Field('lr 2.0e-02', 5),
    Field('12.3 img/s', 4),
    Field('ETA 10:12:33', 3),
    Field('10.9 GB', 6),
]


class Terminal(io.StringIO):
    """Keeps what is on the screen, wrapping at ``width`` columns."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.rows = ['']
        self.row = self.column = 0

    def isatty(self):
        return True

    def write(self, text):
        for code, command, plain in re.findall(r'\x1b\[([\d;?]*)([A-Za-z])|([^\x1b])', text):
            if command == 'A':
                self.row = max(self.row - int(code or 1), 0)
            elif command == 'K':
                self.rows[self.row] = ''
            elif command == 'J':
                self.rows[self.row + 1 :] = []
                self.rows[self.row] = self.rows[self.row][: self.column]
            elif plain == '\r':
                self.column = 0
            elif plain == '\n':
                self._down()
            elif plain:
                if self.column == self.width:
                    self._down()
                line = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = line[: self.column] + plain + line[self.column + 1 :]
                self.column += 1
            else:
                assert command in 'mhl', f'{command!r} is not played'
        return len(text)

    def _down(self):
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append('')


def console(terminal):
    return Console(file=terminal, force_terminal=True, width=terminal.width, color_system=None, legacy_windows=False)


def open_terminal(monkeypatch):
    """The test runs in a terminal of 60 columns. No fixture: pytest sets sys.stdout after those."""
    screen = Terminal(60)
    monkeypatch.setattr(sys, 'stdout', screen)
    for name in ('CI', 'MMDET_PROGRESS', 'RANK'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('TERM', 'xterm')
    return screen


@pytest.mark.parametrize(
    'width, present',
    [
        (20, {0}),
        (60, {0, 2, 3, 7, 6}),
        (100, {0, 2, 3, 5, 6, 7, 8}),
        (120, {0, 1, 2, 3, 5, 6, 7, 8}),
        (200, set(range(9))),
    ],
)
def test_what_fits(width, present):
    text = fit(FIELDS, width).plain
    assert len(text) <= width
    assert text == '  '.join(FIELDS[i].text for i in sorted(present))


def test_a_terminal_narrower_than_the_first_field():
    assert fit(FIELDS, 5).plain == 'Epoch' and fit([], 5).plain == ''


def test_lines_above_the_live_line(monkeypatch):
    terminal = open_terminal(monkeypatch)
    line = LiveLine(console(terminal))
    logger = logging.Logger('above')
    handler = logging.StreamHandler(sys.stdout)
    logging.root.addHandler(handler)
    try:
        line.start()
        line.show(FIELDS)
        print('a print')
        logging.root.error('a long \x1b[31mlog\x1b[0m line: ' + 'x' * 60)
        line.show([Field('Epoch 4/12', 0)])
        assert terminal.rows == ['a print', 'a long log line: ' + 'x' * 43, 'x' * 17, 'Epoch 4/12']
        line.stop()
        logging.root.error('after')
    finally:
        logging.root.removeHandler(handler)
    assert terminal.rows[-2:] == ['after', ''] and 'Epoch' not in ''.join(terminal.rows)
    assert sys.stdout is terminal and handler.stream is terminal and logger.handlers == []


def test_a_terminal_made_narrower_keeps_no_rest(monkeypatch):
    terminal = open_terminal(monkeypatch)
    shown = console(terminal)
    line = LiveLine(shown)
    line.start()
    line.show([Field('x' * 50, 0)])
    terminal.rows, terminal.row, terminal.column = ['x' * 20, 'x' * 20, 'x' * 10], 2, 10  # as terminals do
    shown.width = terminal.width = 20
    line.show([Field('y', 0)])
    assert terminal.rows == ['y']
    line.stop()


@pytest.mark.parametrize('name, value', [('CI', 'true'), ('TERM', 'dumb'), ('MMDET_PROGRESS', '0'), ('RANK', '1')])
def test_when_not(monkeypatch, name, value):
    open_terminal(monkeypatch)
    assert wants_live()
    monkeypatch.setenv(name, value)
    assert not wants_live()


def test_a_pipe_is_no_terminal(monkeypatch):
    open_terminal(monkeypatch)
    monkeypatch.setattr(sys, 'stdout', io.StringIO())
    assert not wants_live()


def test_track_in_a_terminal_and_in_a_pipe(monkeypatch):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(progress, 'REDRAW', 0)
    shown = []
    monkeypatch.setattr(progress, 'Console', lambda: console(terminal))
    for item in track(iter('abc'), 'Making', total=3):
        shown.append((item, terminal.rows[-1]))
    assert [item for item, _ in shown] == ['a', 'b', 'c'] and set(terminal.rows) == {''}
    assert shown[0][1] == '' and re.match(r'Making  \S{20}  2/3  [\d.]+/s  ETA 0:00:00$', shown[2][1])

    pipe = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', pipe)
    assert list(track('ab', 'Making')) == ['a', 'b'] and not pipe.getvalue()  # done before there is a line to print
    monkeypatch.setattr(progress, 'PLAIN', 0)
    list(track('ab', 'Making'))
    assert pipe.getvalue().startswith('Making: 1/2, ') and '\x1b' not in pipe.getvalue()
    monkeypatch.setenv('RANK', '1')
    assert list(track('ab', 'Making')) == ['a', 'b'] and pipe.getvalue().count('\n') == 2


def test_speed_leaves_pauses_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, 'perf_counter', lambda: now[0])
    speed = Speed()
    for _step in range(60):
        now[0] += 0.5
        speed.add(4)
    now[0] += 100
    speed.start()
    now[0] += 0.5
    speed.add(4)
    assert speed.images == pytest.approx(8) and speed.seconds == pytest.approx(0.5)


def test_duration():
    assert [duration(s) for s in (-1, 65.4, 3725, 2 * 86400 + 11045)] == [
        '0:00:00',
        '0:01:05',
        '1:02:05',
        '2d 03:04:05',
    ]
