"""Runs a command and measures it: seconds on the clock, seconds of CPU, the most memory its processes held at once."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE_EVERY_S = 0.02


@dataclass(frozen=True)
class Measured:
    wall_s: float
    cpu_s: float  # of the command and its children; not of the database server
    peak_bytes: int  # sum of resident sets; pages that processes share count for each


def run(command: Sequence[str | Path], user: tuple[int, int] | None, environment: dict[str, str]) -> Measured:
    """The command must succeed; its output goes into the error when it does not."""
    drop: dict[str, Any] = {"user": user[0], "group": user[1], "extra_groups": []} if user else {}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    with subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd="/",
        env=environment,
        **drop,
    ) as process:
        watcher = _Watcher(process.pid)
        watcher.start()
        output, _ = process.communicate()
        wall_s = time.monotonic() - began
        watcher.ended.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{output}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(wall_s, cpu_s, watcher.peak_bytes)


class _Watcher(threading.Thread):
    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root = root
        self.peak_bytes = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_EVERY_S):
            self.peak_bytes = max(self.peak_bytes, sum(_resident_bytes(pid) for pid in descendants(self.root)))


def descendants(root: int) -> list[int]:
    """The process and all below it."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                waiting += [int(word) for word in children.read_text().split()]
            except OSError:
                continue  # ended meanwhile
    return found


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def tree_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
