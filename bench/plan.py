"""The runs that make docs/benchmarks.md: about half an hour on two quiet cores, as root, with 50 GB free below /tmp.

    make bench
    .venv/bin/python bench/plan.py --list
    .venv/bin/python bench/plan.py --only 1-ext4,5-small --minutes 20

Each run writes its results as it goes and the page when it ends: what a run that was ended early has measured is on the
page. ``--minutes``: a run that would not fit any more is left out, one that is still going then is ended.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PART = 0.6  # of a run is worth having
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Planned:
    name: str
    minutes: float  # on two quiet cores
    title: str
    program: str
    options: str

    @property
    def command(self) -> list[str]:
        program = [sys.executable, str(HERE / self.program), "--name", self.name, "--title", self.title]
        return [*program, *shlex.split(self.options)]


QUIET = "full,restore,unchanged,one_percent,one_percent_run"
PLAN = [  # the most telling first; the page has them by name
    Planned("1-ext4", 9, "2 GB on ext4", "compare.py", f"--size 2G --rounds 2 --cases {QUIET}"),
    Planned("4-large", 11, "1 to 16 GB on XFS", "large.py", "--sizes 1G,4G,16G"),
    Planned(
        "5-small",
        6,
        "100,000 small files on ext4",
        "compare.py",
        # in a file: /tmp may give back to the disk, one by one, what each of so many files had
        f"--size 100M --small-files 100000 --file-system ext4 --rounds 1 --cases {QUIET} --tools icecore,pgBackRest",
    ),
    Planned(
        "2-plain",
        2,
        "2 GB on ext4, nothing encrypted, no page checked",
        "compare.py",
        "--size 2G --rounds 2 --plain --cases full,restore --tools icecore,pg_basebackup,pgBackRest",
    ),
    Planned("3-loss", 8, "2 GB on ext4, under load", "compare.py", "--size 2G --rounds 2 --cases loss"),
]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="", help="names, with commas")
    options.add_argument("--minutes", type=float, default=24 * 60)
    options.add_argument("--list", action="store_true", help="only show what would run")
    given = options.parse_args()
    chosen = [each for each in PLAN if not given.only or each.name in given.only.split(",")]
    until, failed = time.monotonic() + given.minutes * 60, list[str]()
    for each in chosen:
        left_s = until - time.monotonic()
        if given.list:
            print(f"{each.minutes:4.0f} min  {shlex.join(each.command)}")
        elif left_s < each.minutes * 60 * PART:
            failed.append(f"{each.name} was left out: it takes {each.minutes} minutes")
        elif (why := run(each, left_s)) != "":
            failed.append(f"{each.name} {why}")
    if failed:
        raise SystemExit("\n".join(failed))


def run(planned: Planned, left_s: float) -> str:
    """Why it is not whole; empty when it is."""
    print(f"== {planned.name}: {shlex.join(planned.command)}", flush=True)
    began = time.monotonic()
    with subprocess.Popen(planned.command, env=os.environ) as process:
        try:
            code = process.wait(left_s)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends its servers, unmounts and writes the page
            process.wait()
            return f"was ended after {left_s / 60:.1f} minutes"
    print(f"== {planned.name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return f"ended with {code}" if code else ""


if __name__ == "__main__":
    main()
