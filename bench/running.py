"""What every run has: its options, a place, a source, the tools that are here, and a file for the results."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from contenders import (
    ICECORE,
    NO_ARCHIVE,
    Contender,
    Icecore,
    PgBackRest,
    PgBaseBackup,
    Round,
    last_word,
    machine,
    pgbackrest,
)
from dataset import Dataset, Told
from filewise import Borg, Restic, version_of
from measure import Measured
from page import page, write_page
from places import HERE, MAKE, CannotMount, new_place, own
from results import KEPT, ROOT, Record, Section
from source_server import SourceServer, programs, stop_server

STARTED = time.monotonic()
TOOLS = ("icecore", "pg_basebackup", "pgBackRest", "restic", "borg")


# ---------------------------------------------------------------- options

Raw = argparse.RawDescriptionHelpFormatter


def options_of_all(options: argparse.ArgumentParser) -> argparse.ArgumentParser:
    options.add_argument("--name", default="9-other", help="of the file in bench/results")
    options.add_argument("--title", default="", help="of the page's part")
    options.add_argument("--tools", type=words(TOOLS), default=list(TOOLS), help=",".join(TOOLS))
    options.add_argument(
        "--file-system",
        choices=(HERE, *MAKE),
        default=HERE,
        help="made and mounted for the run, as root; here: /tmp's",
    )
    options.add_argument("--no-page", action="store_true", help="print only; results go to build/bench")
    return options


def size(text: str) -> int:
    number, unit = text.rstrip("MG"), text[-1]
    return int(float(number) * {"M": 1e6, "G": 1e9}[unit])


def words(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(f"known are {','.join(known)}")
        return [each for each in known if each in chosen]

    return parse


# ---------------------------------------------------------------- a run


@dataclass
class Bench:
    """A place, a source, the tools that are here, and where results go."""

    place: Path
    source: SourceServer
    data: Dataset
    tools: list[Contender]
    section: Section

    def say_data(self) -> None:
        print(f"{since_start_s():5.0f} s  the data is there", file=sys.stderr)
        self.section.data = self.data.words
        self.section.save()

    def guarded(self, tool: Contender, number: int, work: Turn) -> None:
        """A tool's go in a place of its own. One that fails is named and the run goes on."""
        go = Round(self.place / f"{number}-{tool.name}", self.source)
        go.place.mkdir(mode=0o755)
        own(go.place)
        self.section.load = max(self.section.load, os.getloadavg()[0])
        try:
            self.data.settle()
            tool.prepare(go)
            self.data.archive(tool.archive_command(go))  # its own turns only: nobody else pays for it
            self.data.settle()
            work(self, tool, go, number)
        except Exception as error:
            self.failed(f"{tool.name}, round {number + 1}", error)
        finally:
            self.data.archive(NO_ARCHIVE)
            tool.end(go)
            end_servers(go.place)
        shutil.rmtree(go.place)

    def failed(self, what: str, error: Exception) -> None:
        traceback.print_exception(error)
        self.section.failed(f"{what}: {type(error).__name__}: {' / '.join(str(error).split(chr(10))[:4])[:300]}")

    def backup(
        self, case: str, tool: Contender, go: Round, number: int, take: Callable[[Round], Measured], label: str = ""
    ) -> Record:
        record = self.taken(case, tool, go, number, take, label)
        self.add(record)
        return record

    def taken(
        self, case: str, tool: Contender, go: Round, number: int, take: Callable[[Round], Measured], label: str = ""
    ) -> Record:
        os.sync()
        before_bytes, told = tool.stored_bytes(go), Told(self.source)
        taken = take(go)
        return Record.of(
            case,
            tool.name,
            number,
            taken,
            stored_bytes=tool.stored_bytes(go) - before_bytes,
            label=label,
            **told.times(),
            **tool.told(go),
        )

    def add(self, record: Record) -> None:
        self.section.add(record)
        more = "  ".join(f"{name} {value:.4g}" for name, value in record.more.items())
        what = f"{record.tool:<14}{record.case} {record.label}".strip()
        print(
            f"{since_start_s():5.0f} s  round {record.round + 1}  {what:<38}{record.wall_s:8.2f} s  {more}",
            file=sys.stderr,
        )


def since_start_s() -> float:
    return time.monotonic() - STARTED


class Wanted(Protocol):
    """What every run is told."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def tools(self) -> list[str]: ...
    @property
    def file_system(self) -> str: ...
    @property
    def plain(self) -> bool: ...
    @property
    def no_page(self) -> bool: ...


Turn = Callable[[Bench, Contender, Round, int], None]


@contextmanager
def bench(given: Wanted, rounds: int, room_bytes: int, small_files: int = 0, small_bytes: int = 0) -> Iterator[Bench]:
    """Everything that a run needs; at its end the page is written, whatever happened."""
    kept = ROOT / "build" / "bench" if given.no_page else KEPT
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    section = Section(kept / f"{given.name}.json", given.title or given.name, command, rounds, given.plain)
    try:
        with new_place(given.file_system, room_bytes, end_servers, whole=True) as place:
            source = SourceServer(place / "source")
            tools = _present(section, place, given)
            section.machine = machine(place)
            section.notes = {tool.name: tool.note for tool in tools}
            section.versions = _versions(source, [tool.name for tool in tools])
            yield Bench(place, source, Dataset(source, given.plain, small_files, small_bytes), tools, section)
    except CannotMount as error:
        raise SystemExit(f"--file-system {given.file_system}: {error}") from error
    finally:
        print(page([section]))
        if not given.no_page:
            write_page(KEPT, ROOT / "docs")
    if section.failures:
        raise SystemExit("\n".join(section.failures))


def end_servers(place: Path) -> None:
    """The source, and what a tool started and left."""
    for lock in place.glob("**/postmaster.pid"):
        with suppress(SystemExit):
            stop_server(programs(), lock.parent)


def _present(section: Section, place: Path, given: Wanted) -> list[Contender]:
    every: list[Contender] = [
        Icecore(given.plain),
        PgBaseBackup(given.plain),
        PgBackRest(given.plain, place / "pgbackrest.conf"),
        Restic(given.plain),
        Borg(given.plain),
    ]
    wanted = [tool for tool in every if tool.name in given.tools]
    section.absent = {tool.name: tool.absent() for tool in wanted if tool.absent()}
    return [tool for tool in wanted if not tool.absent()]


def _versions(source: SourceServer, names: list[str]) -> dict[str, str]:
    versions = {"icecore": last_word(ICECORE, "--version"), "PostgreSQL": source.version}
    if "pgBackRest" in names:
        versions["pgBackRest"] = last_word(pgbackrest(), "version")
    return versions | {name: version_of(name) for name in ("restic", "borg") if name in names}
