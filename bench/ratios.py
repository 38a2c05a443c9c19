"""Each tool's numbers against Icecore's of the same round. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from results import BASELINE, Record, Section

MEASURES: dict[str, Callable[[Record], float]] = {
    "time": lambda record: record.wall_s,
    "CPU": lambda record: record.cpu_s,
    "memory": lambda record: record.peak_bytes,
    "stored": lambda record: record.stored_bytes,
    "lost transactions": lambda record: record.more.get("lost_transactions", 0),
}


@dataclass(frozen=True)
class Compared:
    """A tool at a case."""

    section: Section
    case: str
    tool: str
    rounds: int
    ratios: dict[str, list[float]]  # by measure; empty where there is nothing to divide


def compared(section: Section, cases: Iterable[str]) -> Iterator[Compared]:
    """All tools but Icecore, case by case; what only one side has in a round does not count."""
    for case in cases:
        by_tool = section.of(case)
        own = {(each.label, each.round): each for each in by_tool.pop(BASELINE, [])}
        for tool, records in by_tool.items():
            pairs = [(each, own[each.label, each.round]) for each in records if (each.label, each.round) in own]
            if pairs:
                found = {name: _divided(pairs, number) for name, number in MEASURES.items()}
                yield Compared(section, case, tool, len(pairs), found)


def _divided(pairs: list[tuple[Record, Record]], number: Callable[[Record], float]) -> list[float]:
    values = [(number(one), number(against)) for one, against in pairs]
    return [one / against for one, against in values] if all(one > 0 and against > 0 for one, against in values) else []


def spread(values: list[float]) -> str:
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
