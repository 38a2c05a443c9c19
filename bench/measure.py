"""Runs a command and measures it: seconds on the clock, seconds of CPU, the most memory its processes held at once."""

from __future__ import annotations

import contextlib
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
    output: str = ""


class ToolFailed(Exception):
    """The command and what it printed."""


def run(
    command: Sequence[str | Path], user: tuple[int, int] | None, environment: dict[str, str], resident: int = 0
) -> Measured:
    """The command must succeed; its output goes into the error when it does not.

    ``resident``: a process that works for the command and is there before and after; its CPU and memory count.
    """
    drop: dict[str, Any] = {"user": user[0], "group": user[1], "extra_groups": []} if user else {}
    resident_before_s = _cpu_s(resident)
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
        watcher = _Watcher(process.pid, resident)
        watcher.start()
        output, _ = process.communicate()
        wall_s = time.monotonic() - began
        watcher.ended.set()
        watcher.join()
    if process.returncode:
        raise ToolFailed(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{output}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = _cpu_s(resident) - resident_before_s + after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(wall_s, cpu_s, watcher.peak_bytes, output)


class _Watcher(threading.Thread):
    def __init__(self, *roots: int) -> None:
        super().__init__(daemon=True)
        self.roots = [root for root in roots if root]
        self.peak_bytes = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_EVERY_S):
            now_bytes = sum(_resident_bytes(pid) for root in self.roots for pid in descendants(root))
            self.peak_bytes = max(self.peak_bytes, now_bytes)


def descendants(root: int) -> list[int]:
    """The process and all below it."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        with contextlib.suppress(OSError):  # ended meanwhile
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    waiting += [int(word) for word in (task / "children").read_text().split()]
    return found


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _cpu_s(pid: int) -> float:
    """Of a living process and its threads; 0 for none."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tree_bytes(directory: Path) -> int:
    """Sizes of all files below; what goes meanwhile does not count."""
    total = 0
    for above, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(f"{above}/{name}").st_size
    return total
