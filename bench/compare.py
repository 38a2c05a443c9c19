"""Icecore beside the tools that do the same, in turn on the same server, several rounds.

    make bench                                        all runs of bench/plan.py: half an hour; writes docs/benchmarks.md
    make bench BENCH='--size 200M --rounds 1 --no-page'
    make bench BENCH='--size 2G --file-system xfs --plain --tools icecore,pgBackRest --name 9-mine'

Cases, in the order of a round: ``full`` and its ``restore``, a second backup of nothing changed (``unchanged``), a
third after 1 % of the pages changed at random (``one_percent``), a fourth after 1 % side by side
(``one_percent_run``). When all rounds are done: full backups while pgbench writes as fast as it can (``loss``).

ICECORE_BENCH_PGBACKREST names another pgBackRest than the PATH's. Tools are interleaved within a round and their order
turns, so that what else the machine does hits all alike; what is compared are the ratios within a round. Data lies in
the page cache after the first reading: disks are not measured. What a run measured is kept in bench/results/NAME.json;
the page is made of all that lies there (``bench/page.py`` alone makes it anew).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from contenders import Contender, Round  # noqa: E402
from load import loss  # noqa: E402
from results import Record  # noqa: E402
from running import Bench, Raw, bench, options_of_all, size, words  # noqa: E402

MANY_FILES = 20_000  # of more, only the first restore is compared: the others take minutes
CASES = ("full", "restore", "unchanged", "one_percent", "one_percent_run", "loss")


@dataclass(frozen=True)
class Given:
    name: str
    title: str
    rounds: int
    size: int
    small_files: int
    small_bytes: int
    file_system: str
    cases: list[str]
    tools: list[str]
    plain: bool
    no_page: bool


def main() -> None:
    given = _given()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what follows "finally" is done
    room_bytes = (6 << 30) + 5 * (given.size + 2 * given.small_files * max(given.small_bytes, 4096))
    with bench(given, given.rounds, room_bytes, given.small_files, given.small_bytes) as running:
        running.data.create(given.size)
        running.say_data()
        for number in range(given.rounds if given.cases != ["loss"] else 0):
            for tool in turned(running.tools, number):
                running.guarded(tool, number, partial(turn, given.cases))
        for number in range(given.rounds if "loss" in given.cases else 0):
            for tool in turned(running.tools, number):
                running.guarded(tool, number, lose)


def _given() -> Given:
    options = options_of_all(argparse.ArgumentParser(description=__doc__, formatter_class=Raw))
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--size", type=size, default=size("2G"), help="of the databases, such as 200M or 16G")
    options.add_argument("--small-files", type=int, default=0, help="so many small files beside them")
    options.add_argument("--small-bytes", type=int, default=4096, help="bytes of each")
    options.add_argument("--cases", type=words(CASES), default=list(CASES), help=",".join(CASES))
    options.add_argument("--plain", action="store_true", help="no encryption and no page checks, on all tools")
    return Given(**vars(options.parse_args()))


def turned(tools: list[Contender], number: int) -> list[Contender]:
    shift = number % len(tools)
    return tools[shift:] + tools[:shift]


# ---------------------------------------------------------------- a tool's go


def turn(cases: list[str], running: Bench, tool: Contender, go: Round, number: int) -> None:
    """All quiet cases of a round, for one tool; what it restores in the first round is started and compared."""
    data, proven = running.data, number == 0
    running.backup("full", tool, go, number, tool.backup)
    if "restore" in cases:
        os.sync()
        running.add(Record.of("restore", tool.name, number, tool.restore(go)))
        if proven:
            data.prove(go)
        shutil.rmtree(go.restored)
    if not tool.increments:
        return
    changes: dict[str, Callable[[], None]] = {
        "unchanged": data.settle,
        "one_percent": lambda: data.change(0.01, in_one_run=False),
        "one_percent_run": lambda: data.change(0.01, in_one_run=True),
    }
    later = [case for case in changes if case in cases]
    for case in later:
        tool.make_room(go)
        changes[case]()
        running.backup(case, tool, go, number, tool.backup_again)
    if later and proven and data.small_files <= MANY_FILES:
        tool.restore(go)
        data.prove(go)


def lose(running: Bench, tool: Contender, go: Round, number: int) -> None:
    """A full backup into an empty repository while pgbench writes."""
    record, told = loss(running.source, lambda: running.taken("loss", tool, go, number, tool.backup))
    record.more.update(told)
    running.add(record)


if __name__ == "__main__":
    main()
