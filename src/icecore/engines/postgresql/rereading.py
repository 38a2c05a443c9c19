"""Every page of a stopped cluster against its checksum: by the server's own ``pg_checksums``, which is another judge
than the one that looked at the pages when they were backed up; by that one where a package came without the program.

What lies in the directories was written by whoever ruled the source: ``pg_checksums`` runs as their owner, and we open
no link and nothing but files.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from icecore.engines.postgresql.owner import rights
from icecore.engines.postgresql.pages import bad_pages
from icecore.engines.postgresql.walk import Relation, relation_of
from icecore.errors import EngineFailed
from icecore.evidence import NOTES_AT_MOST, Examination, Outcome, bounded

NAME = "page checksums"
_POLL_S = 0.1
_PIECE_PAGES = 128
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BAD = re.compile(r'checksum verification failed in file "(?P<file>[^"]*)", block (?P<block>\d+)')
_COUNT = re.compile(r"^(?P<what>Files scanned|Blocks scanned|Bad checksums): +(?P<count>\d+)$")


def reread(
    programs: Path,
    data_directory: Path,
    owner: tuple[int, int],
    still_wanted: Callable[[], None],
    *,
    page_bytes: int,
    pages_per_segment: int,
) -> Examination:
    began = time.monotonic()
    if not (programs / "pg_checksums").exists():
        return _ourselves(data_directory, page_bytes, pages_per_segment, still_wanted, began)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")} | {"LC_ALL": "C"}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        try:
            running = subprocess.Popen(
                [programs / "pg_checksums", "--check", "-D", data_directory],
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **rights(owner),
            )
        except OSError as error:
            raise EngineFailed(doing="reading its pages again", reason=str(error)) from error
        try:
            while running.poll() is None:
                still_wanted()
                time.sleep(_POLL_S)
        finally:
            running.kill()
            running.wait()
        said.seek(0)
        return judged(said, running.returncode, f"{data_directory}/", time.monotonic() - began)


def judged(said: IO[str], code: int, prefix: str, took_s: float) -> Examination:
    """Pure. ``said``: what it printed; ``prefix`` is cut off file names."""
    bad: list[str] = []
    last, counts, more = "", dict[str, int](), 0
    for line in said:
        last = line.strip() or last
        if found := _BAD.search(line):
            if len(bad) < NOTES_AT_MOST:
                bad.append(f"{found['file'].removeprefix(prefix)} block {found['block']} does not match its checksum")
            else:
                more += 1
        elif counted := _COUNT.match(line.strip()):
            counts[counted["what"]] = int(counted["count"])
    if code != 0 and not bad:
        bad.append(last or f"pg_checksums ended with {code}")
    if more:
        bad.append(f"and {more} more")
    outcome = Outcome.FAILED if bad else Outcome.PASSED
    return Examination(NAME, outcome, counts.get("Blocks scanned", 0), "pages", round(took_s, 1), bounded(bad))


# ---------------------------------------------------------------- without the program


def _ourselves(
    data_directory: Path, page_bytes: int, pages_per_segment: int, still_wanted: Callable[[], None], began: float
) -> Examination:
    bad, pages, more = list[str](), 0, 0
    for shown, relation, descriptor in _relation_files(data_directory):
        at = 0
        while piece := os.pread(descriptor, _PIECE_PAGES * page_bytes, at):
            still_wanted()
            first = relation.segment * pages_per_segment + at // page_bytes
            whole = len(piece) - len(piece) % page_bytes
            wrong = bad_pages(memoryview(piece)[:whole], first, page_bytes)
            found = [f"{shown} block {first + page} does not match its checksum" for page in wrong]
            if whole < len(piece):
                found.append(f"{shown}: its last page is cut off")
            room = max(NOTES_AT_MOST - len(bad), 0)
            bad += found[:room]
            more += len(found[room:])
            pages += whole // page_bytes
            at += len(piece)
    if more:
        bad.append(f"and {more} more")
    outcome = Outcome.FAILED if bad else Outcome.PASSED
    return Examination(NAME, outcome, pages, "pages", round(time.monotonic() - began, 1), tuple(bad))


def _relation_files(data_directory: Path) -> Iterator[tuple[str, Relation, int]]:
    """Name, meaning and an open descriptor of each file of pages; the descriptor is good until the next one."""
    for shown, top in _tops(data_directory):
        for folder, _, names, directory in os.fwalk(top, follow_symlinks=False):
            for name in sorted(names):
                relation = relation_of(name)
                if relation is None or relation.temporary:
                    continue
                path = str(Path(shown) / Path(folder).relative_to(top) / name)
                try:
                    descriptor = os.open(name, _OPEN, dir_fd=directory)
                except OSError as error:
                    raise EngineFailed(doing=f"reading {path} again", reason=str(error)) from error
                try:
                    if stat.S_ISREG(os.fstat(descriptor).st_mode):
                        yield path, relation, descriptor
                finally:
                    os.close(descriptor)


def _tops(data_directory: Path) -> Iterator[tuple[str, Path]]:
    """Where relations lie. A tablespace's link is followed only where it leads beside the data directory: ours do."""
    for name in ("global", "base"):
        yield name, data_directory / name
    beside = os.path.realpath(data_directory.parent) + "/"
    for link in sorted((data_directory / "pg_tblspc").iterdir()):
        real = os.path.realpath(link)
        if not real.startswith(beside):
            raise EngineFailed(doing="reading its pages again", reason=f"{link} leads out of the copy")
        yield f"pg_tblspc/{link.name}", Path(real)
