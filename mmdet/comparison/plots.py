"""Line plots as SVG; colours come from the page's style (classes n0, n1, ...)."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 340, 250
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 26, 36
#: so many norms have a colour, marker and dashes of their own
STYLES = 8
DASHES = ('', '7 3', '2 2', '9 3 2 3', '4 2', '12 3', '1 3', '6 2 1 2')


class Curve(NamedTuple):
    """A line with a band around it."""

    style: int
    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def merge(style: int, name: str, runs: Sequence[Sequence[tuple[float, float]]]) -> Curve | None:
    """Mean, minimum and maximum of runs of (x, y), at the values of x that all of them have; None without any."""
    tables = [{x: y for x, y in run if math.isfinite(y)} for run in runs]
    xs = sorted(set.intersection(*map(set, tables))) if tables else []
    if not xs:
        return None
    columns = [[table[x] for table in tables] for x in xs]
    return Curve(
        style, name, xs, [sum(c) / len(c) for c in columns], [min(c) for c in columns], [max(c) for c in columns]
    )


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """Round values between two bounds, about ``number`` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / number
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def bounds(curves: Sequence[Curve], drop: float = 0) -> tuple[float, float]:
    """Lowest and highest value of the bands; the share ``drop`` of the highest is left out."""
    low = min((value for curve in curves for value in curve.low), default=0.0)
    highs = sorted(value for curve in curves for value in curve.high)
    high = highs[min(len(highs) - 1, int(len(highs) * (1 - drop)))] if highs else 1.0
    return low, high if high > low else low + 1


def _marker(style: int, x: float, y: float) -> str:
    shapes = {
        0: None,
        1: ((-3, -3), (3, -3), (3, 3), (-3, 3)),
        2: ((0, -4), (3.8, 3), (-3.8, 3)),
        3: ((0, -4.3), (4.3, 0), (0, 4.3), (-4.3, 0)),
        4: ((0, 4), (3.8, -3), (-3.8, -3)),
    }
    shape = shapes[style % len(shapes)]
    hollow = ' o' if style >= len(shapes) else ''
    if shape is None:
        return f'<circle class="m{hollow}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'
    points = ' '.join(f'{x + dx:.1f},{y + dy:.1f}' for dx, dy in shape)
    return f'<polygon class="m{hollow}" points="{points}"/>'


def sample(style: int, markers: bool = True) -> Markup:
    """A piece of line for the legend."""
    return Markup(
        f'<svg class="key n{style % STYLES}" viewBox="0 0 34 12" aria-hidden="true"><path class="l" '
        f'stroke-dasharray="{DASHES[style % STYLES]}" d="M1 6H33"/>'
        f'{_marker(style, 17, 6) if markers else ""}</svg>'
    )


def plot(
    title: str,
    curves: Sequence[Curve],
    x_label: str,
    y_range: tuple[float, float],
    markers: bool = True,
    log_ticks: Sequence[float] = (),
) -> Markup:
    """One plot, ``y_range`` high; what lies outside is cut off. With ``log_ticks``, from the least to the greatest, the
    x axis is logarithmic and goes just beyond them."""
    scale = math.log10 if log_ticks else float
    xs = [scale(x) for x in log_ticks or [x for curve in curves for x in curve.x]]
    left, right = min(xs, default=0), max(xs, default=1)
    if left == right:
        left, right = left - 1, right + 1
    if log_ticks:
        left, right = left - (right - left) / 12, right + (right - left) / 12
    bottom, top = y_range

    def px(x: float) -> float:
        return LEFT + (scale(x) - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (min(max(y, bottom), top) - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    def path(x: Sequence[float], y: Sequence[float]) -> str:
        return ' '.join(f'{px(a):.1f},{py(b):.1f}' for a, b in zip(x, y))

    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text class="t" x="{LEFT}" y="15">{escape(title)}</text>',
    ]
    for value in ticks(bottom, top):
        parts.append(
            f'<path class="g" d="M{LEFT} {py(value):.1f}H{WIDTH - RIGHT}"/>'
            f'<text class="a" x="{LEFT - 5}" y="{py(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    end = -math.inf
    for value in log_ticks or ticks(left, right):
        if px(value) < end or (markers and not log_ticks and value != int(value)):
            continue  # there is no half of an epoch
        end = px(value) + 40 if log_ticks else end
        parts.append(
            f'<text class="a" x="{px(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
        )
    parts.append(f'<path class="x" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    parts.append(
        f'<text class="a" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
        f'{escape(x_label)}</text>'
    )
    for curve in curves:
        body = ''
        if any(high > low for low, high in zip(curve.low, curve.high)):
            body += f'<polygon class="b" points="{path(curve.x, curve.high)} {path(curve.x[::-1], curve.low[::-1])}"/>'
        if len(curve.x) > 1:
            body += (
                f'<polyline class="l" stroke-dasharray="{DASHES[curve.style % STYLES]}" '
                f'points="{path(curve.x, curve.y)}"/>'
            )
        if markers or len(curve.x) == 1:
            body += ''.join(_marker(curve.style, px(x), py(y)) for x, y in zip(curve.x, curve.y))
        parts.append(f'<g class="n{curve.style % STYLES}"><title>{escape(curve.name)}</title>{body}</g>')
    if not curves:
        parts.append(f'<text class="a" x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">nothing finished</text>')
    return Markup('\n'.join([*parts, '</svg>']))
