"""Pictures of moments and sizes, as SVG. Pure.

Horizontal places are percents, so that a picture fills any width while its letters keep their size; colours are
classes of the sheet. What a picture says stands beside it in words too, or in its ``aria-label`` and titles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from markupsafe import Markup, escape

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
STEPS_S = (
    *(MINUTE_S * n for n in (1, 2, 5, 10, 30)),
    *(HOUR_S * n for n in (1, 2, 6, 12)),
    *(DAY_S * n for n in (1, 2, 7, 14, 30, 90, 180, 365)),
)
LABELS_AT_MOST = 4  # of an axis: they still fit side by side at 360 px
SIDE_PERCENT = 3.0  # free at both ends, so that a mark at the edge is whole
CLOSE_PERCENT = 1.5  # two marks nearer than this would hide each other
LAST_AT = 253_402_300_799  # datetime ends with the year 9999


@dataclass(frozen=True)
class Moment:
    """One restorable moment. ``title`` is the link's name for those who do not see the picture."""

    at: int
    title: str
    href: str
    chosen: bool = False


@dataclass(frozen=True)
class Bar:
    label: str
    value: int
    text: str  # the value in words


def timeline(moments: Sequence[Moment], now: int, label: str, *, newest: bool = True) -> Markup:
    """The moments in time, each a link; those too close to be told apart share one mark with their number in it.

    ``newest``: the newest of all is among them. Then time goes on to now, and what lies behind the newest is shaded:
    what a loss would cost."""
    if not moments:
        return Markup("")
    ats = [_clamped(moment.at) for moment in moments]
    first, last = min(ats), max(_clamped(now), *ats) if newest else max(ats)
    place = _scale(first, last)
    until_now = [
        _band("risk", place(max(ats)), place(last), 30, 20),
        Markup('<text x="{}%" y="14" class="end">now</text>').format(_number(100 - SIDE_PERCENT)),
        Markup('<line class="axis" x1="{0}%" x2="{0}%" y1="20" y2="56"/>').format(_number(place(last))),
    ]
    parts = [
        Markup('<line class="axis" x1="0" x2="100%" y1="40" y2="40"/>'),
        *(until_now if newest else ()),
        *_axis_labels(first, last, place, y=76),
        *(_mark(group, place) for group in grouped(moments, place)),
    ]
    return _svg("chart timeline", 82, label, parts, role="group")


def grouped(moments: Sequence[Moment], place: Callable[[int], float]) -> list[list[Moment]]:
    """Oldest first; within a group less than CLOSE_PERCENT apart."""
    groups: list[list[Moment]] = []
    for moment in sorted(moments, key=lambda each: each.at):
        if groups and place(_clamped(moment.at)) - place(_clamped(groups[-1][0].at)) < CLOSE_PERCENT:
            groups[-1].append(moment)
        else:
            groups.append([moment])
    return groups


def strip(ats: Sequence[int], start: int, now: int, label: str) -> Markup:
    """A row's time line, without words: the moments between ``start`` and ``now``; a wedge for still older ones."""
    place = _scale(start, max(now, start + 1), side=2.0)
    known = sorted(_clamped(at) for at in ats)
    shown = [min(at, now) for at in known if at >= start]
    ticks = "".join(f"M{_number(place(at))} 3v14" for at in shown)
    older = "M3 6L0 10L3 14" if len(shown) < len(known) else ""
    newest = place(shown[-1]) if shown else 0.0
    inner = Markup(
        '<rect class="risk" x="{}" y="6" width="{}" height="8"/><path class="axis" d="M0 10H100"/>'
        '<path class="ticks" d="{}"/>'
    ).format(_number(newest), _number(place(now) - newest), ticks + older)
    return Markup(
        '<svg class="chart strip" viewBox="0 0 100 20" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(_clean(label), inner)


def bars(rows: Sequence[Bar], label: str) -> Markup:
    """One bar below the other, the longest as wide as the picture."""
    longest = max((row.value for row in rows), default=0)
    parts = []
    for number, row in enumerate(rows):
        y = number * 40
        parts.append(
            Markup(
                '<text x="0" y="{0}" class="word">{1}</text><text x="100%" y="{0}" class="end">{2}</text>'
                '<rect class="track" x="0" y="{3}" width="100%" height="10" rx="5"/>'
                '<rect class="fill" x="0" y="{3}" width="{4}%" height="10" rx="5"/>'
            ).format(y + 14, _clean(row.label), _clean(row.text), y + 21, _number(_share(row.value, longest)))
        )
    return _svg("chart", max(1, len(rows) * 40 - 6), label, parts)


def meter(value: int, of: int) -> Markup:
    """A thin bar below a number that says the same."""
    return Markup(
        '<svg class="chart meter" height="6" aria-hidden="true"><rect class="track" width="100%" height="6" rx="3"/>'
        '<rect class="fill" width="{}%" height="6" rx="3"/></svg>'
    ).format(_number(_share(value, of)))


def growth(days: Sequence[tuple[str, int]], text: Callable[[int], str], label: str) -> Markup:
    """Size over time: ``days`` are ``YYYY-MM-DD`` and bytes, oldest first; ``text`` puts bytes into words. From zero,
    so that a small growth looks small. Nothing before there are two days."""
    if len(days) < 2:
        return Markup("")
    numbers = [date.fromisoformat(day).toordinal() for day, _ in days]
    top = max(1, *(size for _, size in days))
    place = _scale(numbers[0], numbers[-1], side=0.0)
    shown = [(place(number), 100 - _share(size, top)) for number, (_, size) in zip(numbers, days, strict=True)]
    line = Markup("L".join(f"{_number(x)} {_number(y)}" for x, y in shown))
    picture = Markup(
        '<text x="0" y="14">{}</text><line class="axis" x1="0" x2="100%" y1="22" y2="22"/>'
        '<svg x="0" y="22" width="100%" height="84" viewBox="0 0 100 100" preserveAspectRatio="none">'
        '<path class="soft" d="M{}L{} 100L{} 100Z"/><path class="stroke" d="M{}"/></svg>'
        '<line class="axis" x1="0" x2="100%" y1="106" y2="106"/>'
        '<text x="0" y="122">{}</text><text x="100%" y="122" class="end">{}</text>'
    ).format(
        _clean(text(top)),
        line,
        _number(shown[-1][0]),
        _number(shown[0][0]),
        line,
        _clean(days[0][0]),
        _clean(days[-1][0]),
    )
    return _svg("chart growth", 128, label, [picture])


# ---------------------------------------------------------------- pieces


def _svg(kind: str, height: int, label: str, parts: Sequence[Markup], role: str = "img") -> Markup:
    return Markup('<svg class="{}" height="{}" role="{}" aria-label="{}">{}</svg>').format(
        kind, height, role, _clean(label), Markup("").join(parts)
    )


def _mark(group: Sequence[Moment], place: Callable[[int], float]) -> Markup:
    """The newest of the group, or the chosen one, with room for a finger around it."""
    shown = next((moment for moment in group if moment.chosen), group[-1])
    others = len(group) - 1
    title = shown.title + (f"; {others} more close by" if others else "")
    return Markup(
        '<svg x="{}%" class="tick"><a href="{}" aria-label="{}"{}>'
        '<rect class="hit" x="-12" y="20" width="24" height="40"/>'
        '<line class="stem" y1="26" y2="54"/><circle class="dot{}" cy="40" r="{}"/>{}<title>{}</title></a></svg>'
    ).format(
        _number(place(_clamped(shown.at))),
        _clean(shown.href),
        _clean(title),
        Markup(' aria-current="true" class="chosen"') if shown.chosen else "",
        " many" if others else "",
        9 if shown.chosen or others else 6,
        Markup('<text class="count" y="44">{}</text>').format(len(group)) if others else "",
        _clean(title),
    )


def _band(kind: str, start: float, end: float, y: int, height: int) -> Markup:
    return Markup('<rect class="{}" x="{}%" y="{}" width="{}%" height="{}"/>').format(
        kind, _number(start), y, _number(max(0.0, end - start)), height
    )


def _axis_labels(first: int, last: int, place: Callable[[int], float], y: int) -> list[Markup]:
    step = step_s(last - first)
    ats = range(-(-first // step) * step, last + 1, step)
    return [
        Markup(
            '<line class="axis" x1="{0}%" x2="{0}%" y1="52" y2="60"/><text x="{0}%" y="{1}" class="mid">{2}</text>'
        ).format(_number(place(at)), y, _words(at, step))
        for at in ats
        if 6 <= place(at) <= 94
    ]


def step_s(span_s: int) -> int:
    """The distance of an axis' labels: a round one, so that there are few."""
    for step in STEPS_S:
        if span_s // step <= LABELS_AT_MOST:
            return step
    year_s = STEPS_S[-1]
    return -(-span_s // (LABELS_AT_MOST * year_s)) * year_s


def _words(at: int, step: int) -> str:
    moment = datetime.fromtimestamp(at, UTC)
    if step >= STEPS_S[-1]:
        return f"{moment:%Y}"
    return f"{moment:%b} {moment.day}" if step >= DAY_S or at % DAY_S == 0 else f"{moment:%H:%M}"


def _scale(first: int, last: int, side: float = SIDE_PERCENT) -> Callable[[int], float]:
    """Percent of the width for a moment; within ``side`` and 100 - ``side`` whatever is asked."""
    span = max(1, last - first)

    def place(at: int) -> float:
        share = min(1.0, max(0.0, (at - first) / span)) if last > first else 1.0
        return side + share * (100 - 2 * side)

    return place


def _share(value: int, of: int) -> float:
    """Percent, 0 to 100."""
    return min(100.0, max(0.0, 100 * value / of)) if of > 0 else 0.0


def _clamped(at: int) -> int:
    return min(LAST_AT, max(0, at))


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _clean(text: str) -> Markup:
    """Escaped, without what XML cannot hold: a name may come from an old manifest."""
    return escape("".join(letter if _in_xml(letter) else "\ufffd" for letter in text))


def _in_xml(letter: str) -> bool:
    return letter in "\t\n\r" or "\x20" <= letter <= "\ud7ff" or "\ue000" <= letter <= "\ufffd" or letter > "\uffff"
