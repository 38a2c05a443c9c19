"""The page of a run: what was compared, where, and one table for each case."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from measure import Measured

BASELINE = "icecore"
CASES = {  # in the order of a round
    "full": "Full backup",
    "restore": "Restore of the full backup",
    "unchanged": "Second backup, nothing changed",
    "one_percent": "Third backup, 1 % of the pages changed",
}


@dataclass(frozen=True)
class Result:
    """One tool's go at one case."""

    taken: Measured
    stored_bytes: int  # by how much its repository grew


Results = dict[str, dict[str, list[Result]]]  # case, tool, rounds in order


@dataclass(frozen=True)
class Run:
    """What there is to say of it but the results."""

    machine: str
    versions: dict[str, str]
    data: str
    rounds: int
    plain: bool
    notes: dict[str, str]  # by tool


def page(run: Run, results: Results) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; do not edit. Read `bench/compare.py` for what is done, exactly.",
        "",
        f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {run.machine}; load average at the end {os.getloadavg()[1]:.1f}",
        f"- {', '.join(f'{name} {version}' for name, version in run.versions.items())}",
        f"- {run.data}; page checksums {'off' if run.plain else 'on'}; in the page cache; nobody writes meanwhile",
        "- " + ("no encryption, no page checks" if run.plain else "encrypted and pages checked, where the tool can"),
        f"- {run.rounds} rounds, tools interleaved, order turned each round; each starts from an empty destination; "
        "what each tool restored in the first round was started and compared with the source",
        "- times are those of the whole command, with the start of the program; the rightmost three columns are "
        "ratios against Icecore within a round, below 1 is less than Icecore: median (min–max)",
        "",
    ]
    lines += [f"- **{tool}**: {note}" for tool, note in run.notes.items()]
    for case, title in CASES.items():
        if any(results[case].values()):
            lines += ["", f"## {title}", "", *table(results[case])]
    lines += [
        "",
        "CPU is that of the tool's own processes: what the server does for `pg_basebackup` is not in it. Peak memory",
        "is the largest sum of resident sets of the tool's processes, sampled each 20 ms. Stored is what a backup",
        "added to the repository; WAL that a server archives between two backups is not in it.",
    ]
    return "\n".join(lines) + "\n"


def table(by_tool: dict[str, list[Result]]) -> list[str]:
    lines = [
        "| tool | seconds | CPU s | peak memory | stored | time ratio | CPU ratio | stored ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = by_tool[BASELINE]
    for tool, results in by_tool.items():
        if not results:
            continue
        stored = statistics.median(each.stored_bytes for each in results)
        cells = [
            tool,
            spread([each.taken.wall_s for each in results]),
            f"{statistics.median(each.taken.cpu_s for each in results):.2f}",
            f"{max(each.taken.peak_bytes for each in results) / 1e6:.0f} MB",
            f"{stored / 1e6:.1f} MB" if stored else "–",
            ratios(results, base, lambda each: each.taken.wall_s),
            ratios(results, base, lambda each: each.taken.cpu_s),
            ratios(results, base, lambda each: each.stored_bytes),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def ratios(results: list[Result], base: list[Result], number: Callable[[Result], float]) -> str:
    pairs = [(number(one), number(against)) for one, against in zip(results, base, strict=True)]
    return spread([one / against for one, against in pairs]) if all(against for _, against in pairs) else "–"


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
