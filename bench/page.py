"""The page of all runs that are kept: ratios of all tools at one look, then each run with its tables.

.venv/bin/python bench/page.py     writes docs/benchmarks.md and its picture anew from bench/results
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from picture import picture
from ratios import MEASURES, Compared, compared, spread
from results import BASELINE, KEPT, ROOT, Record, Section, sections

TITLES = {  # in the order of a round
    "full": "Full backup",
    "grown": "A backup after the data has grown or been scattered",
    "restore": "Restore of the full backup",
    "unchanged": "Another backup, nothing changed",
    "one_percent": "Another backup, 1 % of the pages changed, at random",
    "one_percent_run": "Another backup, 1 % of the pages changed, side by side",
    "loss": "A full backup while pgbench writes as fast as it can, two clients",
    "hold": "How long the server is held, while pgbench writes",
    "instant": "From a backup to the first query on a new server",
}
COMPARED = ("full", "restore", "unchanged", "one_percent", "one_percent_run", "loss")  # as ratios
HEAD = """\
# Benchmarks

Written by `make bench` (`bench/plan.py` names its runs); do not edit. Read `bench/compare.py` and `bench/large.py` for
what is done, exactly. Each number below was measured; what each tool restored in a run's first round was started as a
server and its rows were compared with the source's.

Times are those of the whole command, with the start of the program. A ratio is a tool's number by Icecore's of the same
round: above 1, Icecore took less. Shown are medians and, in brackets, the least and the most of all rounds.
"""
FOOT = """
CPU is that of the tool's own processes: what the server does for `pg_basebackup` is not in it. Peak memory is the
largest sum of resident sets of the tool's processes, sampled each 20 ms. Stored is what a backup added to the
repository; WAL that a server archives between two backups is not in it. *Held* is the time between the answer to
`pg_backup_start` and the call of `pg_backup_stop`, *checkpoint* what the former took, both from the server's log;
`pg_basebackup` does not make these calls: it holds the server as long as it runs. *Job* is Icecore's work without the
command and the queue, from its own log. Under load the log goes to Icecore, and into the archives that pgBackRest,
restic and borg need, before, during and after the backup alike; transactions lost are those that fewer were made during
the backup than at the mean rate of the eight seconds before and after it.
"""
Row = list[str]


def write_page(kept: Path, into: Path) -> None:
    """``benchmarks.md`` and its picture."""
    every = sections(kept)
    (into / "benchmarks.md").write_text(page(every), encoding="utf-8")
    (into / "pictures" / "benchmarks.svg").write_text(
        picture(every, {case: TITLES[case] for case in COMPARED}), encoding="utf-8"
    )


def page(every: list[Section]) -> str:
    lines = [HEAD, "![Seconds against Icecore's](pictures/benchmarks.svg)", "", "## Ratios", ""]
    lines += at_one_look(every)
    for section in every:
        lines += ["", f"## {section.title}", "", *told(section)]
        for case, title in TITLES.items():
            if section.of(case):
                lines += ["", f"### {title}", "", *TABLES.get(case, backups)(section.of(case))]
    return "\n".join([*lines, FOOT])


def at_one_look(every: list[Section]) -> list[str]:
    rows = [
        [
            each.section.title,
            TITLES[each.case],
            each.tool,
            *(cell(each, measure) for measure in MEASURES),
            str(each.rounds),
        ]
        for section in every
        for each in compared(section, COMPARED)
    ]
    return table(["run", "case", "tool", *MEASURES, "rounds"], rows)


def cell(each: Compared, measure: str) -> str:
    values = each.ratios[measure]
    return spread(values) if values else "–"


def told(section: Section) -> list[str]:
    lines = [
        f"    bench/{section.command}",
        "",
        f"- {section.began}, {section.machine}; load average before a round at most {section.load:.1f}",
        f"- {', '.join(f'{name} {version}' for name, version in section.versions.items())}",
        f"- {section.data}; page checksums {'off' if section.plain else 'on'}",
        "- "
        + ("no encryption, no page checks" if section.plain else "encrypted and pages checked, where the tool can"),
        f"- {section.rounds} rounds, tools interleaved, order turned each round; each starts from an empty place",
    ]
    lines += [f"- **{tool}**: {note}" for tool, note in section.notes.items()]
    lines += [f"- **{tool}** was not measured: {why}" for tool, why in section.absent.items()]
    lines += [f"- **failed**: {what}" for what in section.failures]
    return lines


# ---------------------------------------------------------------- tables, by case


def backups(by_tool: dict[str, list[Record]]) -> list[str]:
    head = ["tool", "seconds", "CPU s", "peak memory", "stored", "checkpoint s", "held s", "job s", "rounds"]
    rows = [
        [
            f"{tool}, {label}" if label else tool,
            spread([each.wall_s for each in records]),
            f"{statistics.median(each.cpu_s for each in records):.2f}",
            f"{max(each.peak_bytes for each in records) / 1e6:.0f} MB",
            f"{statistics.median(each.stored_bytes for each in records) / 1e6:.1f} MB",
            more(records, "checkpoint_s"),
            more(records, "held_s"),
            more(records, "procedure_s"),
            str(len(records)),
        ]
        for tool, label, records in labelled(by_tool)
    ]
    lines = table(head, rows)
    read = [each.more["read_bytes"] / 1e6 for each in by_tool.get(BASELINE, []) if "read_bytes" in each.more]
    return lines + (["", f"Icecore read of its images: {spread(read)} MB."] if read else [])


def restores(by_tool: dict[str, list[Record]]) -> list[str]:
    head = ["tool", "seconds", "CPU s", "peak memory", "rounds"]
    return table(
        head,
        [
            [
                tool,
                spread([each.wall_s for each in records]),
                f"{statistics.median(each.cpu_s for each in records):.2f}",
                f"{max(each.peak_bytes for each in records) / 1e6:.0f} MB",
                str(len(records)),
            ]
            for tool, records in by_tool.items()
        ],
    )


def losses(by_tool: dict[str, list[Record]]) -> list[str]:
    names = ["tps_before", "tps_during", "tps_after", "tps_worst", "lost_percent", "lost_transactions", "held_s"]
    """Some tools need a server that archives: it does so before, during and after."""
    head = ["tool", "seconds", "tps before", "during", "after", "worst second", "lost %", "transactions lost", "held s"]
    return table(
        head,
        [
            [tool, spread([each.wall_s for each in records]), *(more(records, name) for name in names)]
            for tool, records in by_tool.items()
        ],
    )


def holds(by_tool: dict[str, list[Record]]) -> list[str]:
    """By size and state of the data."""
    head = ["tool", "data", "extents", "files cloned", "cloned in ms", "held s", "checkpoint s", "seconds", "backups"]
    names = ["extents", "cloned_files", "cloned_in_ms", "held_s", "checkpoint_s"]
    lines = table(
        head,
        [
            [tool, label, *(more(some, name) for name in names), spread([each.wall_s for each in some]), str(len(some))]
            for tool, label, some in labelled(by_tool)
        ],
    )
    return [
        *lines,
        "",
        "Extents are those of all cloned files. Up to one of the seconds held is spent waiting for the clock's next",
        "second (times of files have that grain), the rest on cloning, the log and the files that are not cloned.",
    ]


def instants(by_tool: dict[str, list[Record]]) -> list[str]:
    head = ["tool", "data", "seconds to the first query", "of which the command", "tries"]
    return table(
        head,
        [
            [tool, label, spread([each.wall_s for each in some]), more(some, "command_s"), str(len(some))]
            for tool, label, some in labelled(by_tool)
        ],
    )


TABLES: dict[str, Callable[[dict[str, list[Record]]], list[str]]] = {
    "restore": restores,
    "loss": losses,
    "hold": holds,
    "instant": instants,
}


def labelled(by_tool: dict[str, list[Record]]) -> Iterator[tuple[str, str, list[Record]]]:
    for tool, records in by_tool.items():
        for label in dict.fromkeys(each.label for each in records):
            yield tool, label, [each for each in records if each.label == label]


def more(records: Iterable[Record], name: str) -> str:
    values = [each.more[name] for each in records if name in each.more]
    return spread(values) if values else "–"


def table(head: Row, rows: list[Row]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


if __name__ == "__main__":
    write_page(KEPT, ROOT / "docs")
