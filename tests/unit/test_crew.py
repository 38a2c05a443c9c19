"""How many threads: of the cores that may be used, and of what was seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from icecore import config
from icecore.cores import READERS_AT_MOST, threads, usable_cores
from icecore.crew import Seen, Size

WAITING, COMPUTING = Seen(0.9, 0.2, 100.0), Seen(0.2, 1.0, 100.0)


def grouped(place: Path, line: str, files: dict[str, str]) -> int:
    (place / "cgroup").write_text(line)
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return usable_cores(place / "cgroup", place / "mounts")


@pytest.mark.parametrize(
    ("line", "files", "cores"),
    [
        ("0::/a/b\n", {"mounts/a/b/cpu.max": "max 100000\n"}, 9),
        ("0::/a/b\n", {"mounts/a/b/cpu.max": "max 100000\n", "mounts/a/cpu.max": "150000 100000\n"}, 2),
        ("0::/a\n", {"mounts/a/cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"mounts/cpu.max": "300000 100000\n"}, 3),
        # the host's path, and what is mounted is the container's own
        ("0::/docker/1f\n", {"mounts/cpu.max": "300000 100000\n"}, 3),
        (
            "4:cpu,cpuacct:/a\n3:cpuset:/a\n",
            {"mounts/cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n", "mounts/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        (
            "4:cpu:/a\n",
            {"mounts/cpu/a/cpu.cfs_quota_us": "-1\n", "mounts/cpu/a/cpu.cfs_period_us": "100000\n"},
            9,
        ),
        ("0::/a\n", {"mounts/a/cpu.max": "rubbish\n"}, 9),
    ],
)
def test_cores_are_those_of_affinity_and_quota(tmp_path, monkeypatch, line, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(9)))
    assert grouped(tmp_path, line, files) == cores


def test_more_threads_while_they_wait_and_the_cores_lie_idle():
    size = Size(2, 16)
    for expected, seen in ((4, WAITING), (8, Seen(0.9, 0.3, 190.0)), (16, Seen(0.9, 0.5, 350.0)), (16, WAITING)):
        size.look(seen)
        assert size.now == expected or seen is WAITING
    size = Size(2, 16)
    for seen in (COMPUTING, Seen(0.9, 0.9, 1.0), Seen(0.3, 0.1, 1.0)):
        size.look(seen)
        assert size.now == 2


def test_as_many_as_before_where_more_brought_nothing_and_it_is_not_tried_again():
    size = Size(2, 16)
    size.look(WAITING)
    size.look(Seen(0.9, 0.2, 105.0))  # a disk that gives no more
    assert size.now == 2
    size.look(WAITING)
    assert size.now == 2


def test_a_number_that_a_person_said_is_kept_to(tmp_path, monkeypatch):
    config.create(tmp_path / "home")
    for said, expected in (("3", (3, 3)), ("auto", (threads(), READERS_AT_MOST)), ("0", (threads(), READERS_AT_MOST))):
        monkeypatch.setenv("ICECORE_THREADS", said)
        found = config.load(tmp_path / "home")
        assert (found.threads, found.readers_at_most) == expected
