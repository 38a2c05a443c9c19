"""Pictures: whatever the data, well-formed, inside their frame, and saying in words what they draw."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from xml.etree import ElementTree

from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import Markup

from icecore.console import pictures, view
from icecore.console.pictures import Bar, Moment

NOW = 1_795_000_000
TEXTS = st.text(max_size=40)
ATS = st.integers(-(1 << 40), 1 << 40)
SIZES = st.integers(-(1 << 70), 1 << 70)
MOMENTS = st.lists(st.builds(Moment, ATS, TEXTS, TEXTS, st.booleans()), max_size=60)
HOSTILE = '<b>"&\x00\x1f\ud800]]>'

HORIZONTAL = {"x", "x1", "x2", "width"}


def checked(picture: Markup) -> ElementTree.Element:
    """The picture as XML: every horizontal place is within its frame, no number is not one, no style or script."""
    root = ElementTree.fromstring(picture)
    assert root.get("aria-label") is not None or root.get("aria-hidden") == "true"
    for element in root.iter():
        assert element.tag in {"svg", "a", "rect", "line", "circle", "path", "text", "title"}
        assert not any(name.startswith("on") or name == "style" for name in element.attrib)
        for name, value in element.attrib.items():
            if name in HORIZONTAL and value.endswith("%"):
                assert 0 <= float(value[:-1]) <= 100
        if "width" in element.attrib and element.attrib["width"].endswith("%") and "x" in element.attrib:
            assert float(element.get("x", "0").rstrip("%")) + float(element.attrib["width"][:-1]) <= 100.02
        for number in re.findall(r"-?[\w.]+", re.sub(r"[MLHVZv]", " ", element.get("d", ""))):
            assert -1 <= float(number) <= 101, element.get("d")
    return root


def words(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter("text")]


# ---------------------------------------------------------------- the time line


@given(MOMENTS, ATS, TEXTS, st.booleans())
@example([Moment(NOW, HOSTILE, HOSTILE)], NOW, HOSTILE, True)
@example([Moment(NOW + 999, "from a clock that is ahead", "/x"), Moment(0, "", "")], NOW, "", True)
def test_a_time_line_holds_any_moments(moments: list[Moment], now: int, label: str, newest: bool) -> None:
    picture = pictures.timeline(moments, now, label, newest=newest)
    if not moments:
        assert picture == ""
        return
    root = checked(picture)
    marks = [(float(svg.get("x", "")[:-1]), a) for svg in root.iter("svg") for a in svg.findall("a")]
    assert sum(int(a.findtext("text") or 1) for _, a in marks) == len(moments)
    chosen = sum(moment.chosen for moment in moments)
    assert min(1, chosen) <= sum(a.get("aria-current") == "true" for _, a in marks) <= chosen
    # no mark hides another, but where the chosen one of a group stands for it
    if not chosen:
        places = sorted(place for place, _ in marks)
        assert all(after - before > 0 for before, after in pairwise(places))
    axis = [text for text in root.findall("text") if text.get("class") != "count"]
    assert len(axis) <= pictures.LABELS_AT_MOST + 2  # with "now" and one at the beginning
    assert ("now" in words(root)) == newest


def test_moments_stand_in_the_order_and_distance_of_time() -> None:
    moments = [Moment(NOW - hours * 3600, f"{hours} h ago", f"/{hours}") for hours in (1, 3, 5)]
    root = checked(pictures.timeline(moments, NOW, "moments"))
    places = {a.get("href"): float(tick.get("x", "")[:-1]) for tick in root.iter("svg") for a in tick.findall("a")}
    assert places["/5"] < places["/3"] < places["/1"]
    assert abs((places["/1"] - places["/3"]) - (places["/3"] - places["/5"])) < 0.02
    assert places["/5"] == pictures.SIDE_PERCENT
    # what lies behind the newest is what a loss would cost
    risk = next(element for element in root.iter("rect") if element.get("class") == "risk")
    assert float(risk.get("x", "")[:-1]) == places["/1"]
    assert round(float(risk.get("width", "")[:-1]) / (places["/1"] - places["/3"]), 2) == 0.5
    assert not re.search('class="risk"', pictures.timeline(moments, NOW, "moments", newest=False))


def test_moments_too_close_to_be_told_apart_share_a_mark() -> None:
    day = 86_400
    ats = [NOW - 30 * day, NOW - 600, NOW - 601, NOW - 602]
    moments = [Moment(at, f"at {at}", f"/{at}") for at in ats]
    marks = list(checked(pictures.timeline(moments, NOW, "moments")).iter("a"))
    assert [(a.get("href"), a.findtext("text")) for a in marks] == [(f"/{ats[0]}", None), (f"/{ats[1]}", "3")]
    assert marks[1].get("aria-label") == f"at {ats[1]}; 2 more close by"
    # the chosen one is never the hidden one
    moments[3] = replace(moments[3], chosen=True)
    marks = list(checked(pictures.timeline(moments, NOW, "moments")).iter("a"))
    assert [a.get("href") for a in marks] == [f"/{ats[0]}", f"/{ats[3]}"]


def test_a_page_of_older_moments_ends_with_them() -> None:
    moments = [Moment(NOW - days * 86_400, f"{days} d ago", f"/{days}") for days in (50, 60)]
    picture = pictures.timeline(moments, NOW, "moments", newest=False)
    places = [svg.get("x") for svg in checked(picture).iter("svg") if svg.get("class") == "tick"]
    assert places == [f"{pictures.SIDE_PERCENT:g}%", f"{100 - pictures.SIDE_PERCENT:g}%"]


def test_a_mark_is_a_link_with_a_name_and_room_for_a_finger() -> None:
    chosen = Moment(NOW - 3600, "Backup 4182 & <more>", "/console/backups/4182?a=1&b=2", chosen=True)
    root = checked(pictures.timeline([chosen, Moment(NOW, "Backup 4183", "/4183")], NOW, "moments"))
    first = next(root.iter("a"))
    assert first.get("href") == "/console/backups/4182?a=1&b=2"
    assert first.get("aria-label") == first.findtext("title") == "Backup 4182 & <more>"
    assert first.get("aria-current") == "true"
    assert [a.get("aria-current") for a in root.iter("a")] == ["true", None]
    hits = [rect for rect in root.iter("rect") if rect.get("class") == "hit"]
    assert all(float(hit.get("width", "")) >= 24 and float(hit.get("height", "")) >= 24 for hit in hits)


@given(st.integers(0, 1 << 40))
def test_an_axis_has_few_round_labels(span_s: int) -> None:
    step = pictures.step_s(span_s)
    assert span_s // step <= pictures.LABELS_AT_MOST
    assert step in pictures.STEPS_S or step % pictures.STEPS_S[-1] == 0


def test_an_axis_says_hours_days_or_years() -> None:
    def axis(span_s: int) -> list[str]:
        moments = [Moment(NOW - span_s, "", "")]
        return words(checked(pictures.timeline(moments, NOW, "")))[1:]

    assert all(re.fullmatch(r"\d\d:\d\d", word) for word in axis(3 * 3600))
    assert "Nov 18" in axis(20 * 3600)  # at midnight the day
    assert all(re.fullmatch(r"[A-Z][a-z][a-z] \d\d?", word) for word in axis(10 * 86_400))
    assert all(re.fullmatch(r"\d{4}", word) for word in axis(12 * 365 * 86_400))
    assert axis(3 * 3600) and axis(10 * 86_400) and axis(12 * 365 * 86_400)


@given(st.lists(ATS, max_size=30), ATS, ATS, TEXTS)
@example([], NOW, NOW, HOSTILE)
def test_a_strip_holds_any_moments(ats: list[int], start: int, now: int, label: str) -> None:
    checked(pictures.strip(ats, start, now, label))


def test_a_strip_hints_at_what_is_older_and_shades_what_would_be_lost() -> None:
    day = 86_400
    strip = pictures.strip([NOW - 40 * day, NOW - 15 * day], NOW - 30 * day, NOW, "moments")
    assert 'd="M50 3v14M3 6L0 10L3 14"' in strip
    assert '<rect class="risk" x="50" y="6" width="48"' in strip
    assert "L0 10" not in pictures.strip([NOW - day], NOW - 30 * day, NOW, "")


# ---------------------------------------------------------------- sizes


@given(st.lists(st.builds(Bar, TEXTS, SIZES, TEXTS), max_size=12), TEXTS)
@example([Bar(HOSTILE, 0, HOSTILE)], HOSTILE)
def test_bars_hold_any_sizes(rows: list[Bar], label: str) -> None:
    root = checked(pictures.bars(rows, label))
    assert len([rect for rect in root.iter("rect") if rect.get("class") == "fill"]) == len(rows)


def test_bars_are_as_long_as_their_share_of_the_longest() -> None:
    root = checked(pictures.bars([Bar("all", 400, "400 bytes"), Bar("new", 100, "100 bytes")], "sizes"))
    assert [rect.get("width") for rect in root.iter("rect") if rect.get("class") == "fill"] == ["100%", "25%"]
    assert words(root) == ["all", "400 bytes", "new", "100 bytes"]


@given(SIZES, SIZES)
def test_a_meter_holds_any_share(value: int, of: int) -> None:
    checked(pictures.meter(value, of))


@given(st.dictionaries(st.dates(), SIZES, max_size=90), TEXTS)
def test_growth_holds_any_history(history: dict[date, int], label: str) -> None:
    days = [(day.isoformat(), size) for day, size in sorted(history.items())]
    picture = pictures.growth(days, lambda size: f"{size} bytes", label)
    if len(days) < 2:
        assert picture == ""  # a line of one point says nothing
        return
    root = checked(picture)
    assert words(root)[1:] == [days[0][0], days[-1][0]]


def test_growth_begins_at_zero_and_keeps_gaps_in_time() -> None:
    first = date(2026, 11, 1)
    days = [((first + timedelta(days)).isoformat(), size) for days, size in ((0, 50), (1, 75), (10, 100))]
    picture = pictures.growth(days, view.size, "Bytes stored")
    assert 'class="stroke" d="M0 50L10 25L100 0"' in picture
    assert words(checked(picture))[0] == "100 bytes"
