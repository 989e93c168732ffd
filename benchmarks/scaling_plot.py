"""A plot over two logarithmic axes, as SVG on a ground of its own, so that it reads alike in light and dark pages."""

import html
import math
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 176, 44, 64
# Dark enough on white for 3 : 1, and told apart by their marks as well (Okabe and Ito's colours, the yellow left out).
_COLOURS = ("#0072b2", "#b34700", "#007a5a", "#a23b72", "#333333")
_MARKS = ("circle", "square", "triangle", "diamond", "cross")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Pairs = Sequence[tuple[float, float]]


def plot(title: str, x_label: str, y_label: str, lines: Mapping[str, Pairs]) -> str:
    """The SVG. `lines` are named series of points, whose values are above 0."""
    xs = _decades([x for pairs in lines.values() for x, _ in pairs])
    ys = _decades([y for pairs in lines.values() for _, y in pairs])
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        share_x = (math.log10(x) - xs[0]) / (xs[-1] - xs[0])
        share_y = (math.log10(y) - ys[0]) / (ys[-1] - ys[0])
        return round(_LEFT + wide * share_x, 1), round(_TOP + high * (1 - share_y), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        '<g font-family="sans-serif" font-size="13" fill="#222">',
        f"<title>{html.escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="#fff" stroke="#bbb"/>',
        f'<text x="{_LEFT}" y="27" font-size="15" font-weight="bold">{html.escape(title)}</text>',
    ]
    for power in xs:
        x, _ = at(10.0**power, 10.0 ** ys[0])
        parts.append(f'<path d="M{x} {_TOP}V{_TOP + high}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{_TOP + high + 20}" text-anchor="middle">{_power(power)}</text>')
    for power in ys:
        _, y = at(10.0 ** xs[0], 10.0**power)
        parts.append(f'<path d="M{_LEFT} {y}H{_LEFT + wide}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{_power(power)}</text>')
    middle = _TOP + high / 2
    parts.append(f'<text x="{_LEFT + wide / 2}" y="{_HEIGHT - 16}" text-anchor="middle">{html.escape(x_label)}</text>')
    parts.append(
        f'<text transform="translate(24 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>'
    )
    for number, (name, pairs) in enumerate(lines.items()):
        colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
        places = [at(x, y) for x, y in pairs]
        line = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [_mark(mark, x, y, colour) for x, y in places]
        x, y = _LEFT + wide + 18, _TOP + 10 + 24 * number
        parts += [_mark(mark, x, y, colour), f'<text x="{x + 12}" y="{y + 4}">{html.escape(name)}</text>']
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _decades(values: Sequence[float]) -> range:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return range(low, max(high, low + 1) + 1)


def _power(power: int) -> str:
    plain = {-2: "0.01", -1: "0.1", 0: "1", 1: "10", 2: "100", 3: "1,000"}
    return plain.get(power, "10" + str(power).translate(_SUPERSCRIPT))


def _mark(kind: str, x: float, y: float, colour: str) -> str:
    shapes = {
        "circle": f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"/>',
        "square": f'<path d="M{x - 5} {y - 5}h10v10h-10z" fill="{colour}"/>',
        "triangle": f'<path d="M{x} {y - 6}l6 11h-12z" fill="{colour}"/>',
        "diamond": f'<path d="M{x} {y - 6}l6 6l-6 6l-6 -6z" fill="{colour}"/>',
        "cross": f'<path d="M{x - 5} {y - 5}l10 10m0 -10l-10 10" stroke="{colour}" stroke-width="2.5"/>',
    }
    return shapes[kind]
