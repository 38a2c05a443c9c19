"""How many cores this process may use: of the machine, of its affinity, and of a container's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path

THREADS_AT_MOST = 8  # that one begins with by itself: more cores were not there to be measured
READERS_AT_MOST = 16  # that wait for a disk far away


def usable_cores(proc: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/sys/fs/cgroup")) -> int:
    """At least 1. A quota of one and a half cores counts as 2."""
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on Linux
        cores = os.cpu_count() or 1
    quotas = [math.ceil(quota) for quota in _quotas(proc, mounts)]
    return max(1, min([cores, *quotas]))


def threads() -> int:
    """Two for each core: while one waits for the disk the other computes. With what is read in the cache that costs
    nothing; past it a backup took 10 to 25 % less (``docs/decisions/pipeline.md``)."""
    return min(THREADS_AT_MOST, 2 * usable_cores())


def _quotas(proc: Path, mounts: Path) -> list[float]:
    """In cores, of each control group that this process is in or below."""
    try:
        lines = proc.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mounts / controllers if controllers else mounts  # version 2 names none
        place = top / path.lstrip("/")
        # inside a container the path may be the host's, and what is mounted the container's own
        for group in (place, *place.parents):
            if not group.is_relative_to(top):
                break
            quota = _quota(group)
            if quota:
                found.append(quota)
    return found


def _quota(group: Path) -> float | None:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text(encoding="ascii") for name in names).split()
        except (OSError, ValueError):
            continue
        if quota.isdigit() and int(period) > 0:  # "max" and -1: none
            return int(quota) / int(period)
    return None
