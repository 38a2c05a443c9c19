"""Every page of a stopped cluster against its checksum, by the server's own ``pg_checksums``.

As the cluster's owner and not by us: what lies in its directories was written by whoever ruled the source.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from icecore.engines.postgresql.owner import rights
from icecore.errors import EngineFailed
from icecore.evidence import NOTES_AT_MOST, Examination, Outcome, bounded

NAME = "page checksums"
_POLL_S = 0.1
_BAD = re.compile(r'checksum verification failed in file "(?P<file>[^"]*)", block (?P<block>\d+)')
_COUNT = re.compile(r"^(?P<what>Files scanned|Blocks scanned|Bad checksums): +(?P<count>\d+)$")


def reread(
    programs: Path, data_directory: Path, owner: tuple[int, int], still_wanted: Callable[[], None]
) -> Examination:
    if not (programs / "pg_checksums").exists():
        return Examination(NAME, Outcome.NOT_RUN, notes=(f"there is no pg_checksums in {programs}",))
    began = time.monotonic()
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
