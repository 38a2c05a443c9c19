"""The log in the repository: what goes in comes out, by any range, proven; two archivers; kills at every step."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_repository import CLUSTER, KEY, back_up, everything

from icecore import archive
from icecore.engines import LogChunk, LogServer
from icecore.errors import Damaged, LeaseHeld, StorageFailed
from icecore.model import LogUnit
from icecore.repository import STRIDE_BYTES, Repository
from icecore.repository.log import cover
from icecore.storage.local import LocalStorage
from icecore.storage.memory import MemoryStorage

OTHER_READER = Path(__file__).resolve().parents[2] / "contrib" / "read_repository.py"
FACTS = {"identity": "7", "last_record": 0}
LOG = random.Random(5).randbytes(3 << 20) + bytes(1 << 20) + b"abc" * 100_000
BASE = 5 << 24


def filled(storage: MemoryStorage | LocalStorage, secret: object = KEY) -> Repository:
    repo = Repository.create(storage, secret)  # type: ignore[arg-type]
    with repo.log_writer(CLUSTER) as writer:
        at = 0
        for size in (100, 1 << 20, (1 << 20) + 1, 0, len(LOG)):
            data = LOG[at : at + size]
            writer.append(1, BASE + at, data, at + 1, FACTS)
            at += len(data)
        writer.put_history(2, b"1\t0/5000000\tno recovery target specified\n")
    return repo


@pytest.mark.parametrize("secret", [KEY, None], ids=["encrypted", "open"])
def test_any_range_of_the_log_comes_back(secret: object) -> None:
    repo = filled(MemoryStorage(), secret)
    log = repo.log(CLUSTER)
    chance = random.Random(8)
    ranges = [sorted(chance.choices(range(len(LOG) + 1), k=2)) for _ in range(30)]
    for start, end in [(0, len(LOG)), (100, 100), *ranges]:
        assert b"".join(log.read(1, BASE + start, BASE + end)) == LOG[start:end]
    assert log.history(2).startswith(b"1\t0/5000000")
    for timeline, start, end in ((1, BASE - 1, BASE + 5), (1, BASE + 5, BASE + len(LOG) + 1), (2, BASE, BASE + 1)):
        with pytest.raises(Damaged, match="nothing at"):
            list(log.read(timeline, start, end))


@pytest.mark.parametrize("secret", [KEY, None], ids=["encrypted", "open"])
def test_the_other_reader_gives_the_same_log(tmp_path: Path, secret: object) -> None:
    filled(LocalStorage(tmp_path / "repo"), secret)
    (tmp_path / "key").write_bytes(KEY.key)
    options = ["--key-file", str(tmp_path / "key")] if secret else ["--unencrypted"]
    command = [sys.executable, "-I", OTHER_READER, tmp_path / "repo", *options, "--log", CLUSTER]
    done = subprocess.run([*command, "--to", tmp_path / "out"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", f"{BASE:x}", f"{BASE + len(LOG):x}"]
    assert (tmp_path / "out" / f"00000001-{BASE:016x}").read_bytes() == LOG
    assert (tmp_path / "out" / "00000002.history").read_bytes().startswith(b"1\t0/5000000")
    (unit,) = (tmp_path / "repo").glob(f"clusters/*/log/00000001-{BASE:016x}-*")
    unit.write_bytes(unit.read_bytes()[:-1] + b"?")
    done = subprocess.run([*command, "--to", tmp_path / "again"], capture_output=True, check=False, timeout=60)
    assert done.returncode != 0


def test_R5_a_changed_byte_or_an_exchanged_name_is_found() -> None:
    storage = MemoryStorage()
    repo = filled(storage)
    names = [unit.name for unit in repo.log(CLUSTER).listing.units]
    whole = dict(storage.objects)

    def read() -> bytes:
        return b"".join(repo.log(CLUSTER).read(1, BASE, BASE + len(LOG)))

    for name in names:
        for at in (0, 9, 30, 70, 90, len(whole[name]) // 2, len(whole[name]) - 1):
            data = bytearray(whole[name])
            data[at] ^= 1
            storage.objects[name] = bytes(data)
            with pytest.raises(Damaged):
                repo.log(CLUSTER).facts(replace(repo.log(CLUSTER).listing.units[names.index(name)], name=name))
        storage.objects[name] = whole[name]
    # A check names what is damaged and no other
    assert repo.log(CLUSTER).check() == (sum(len(whole[name]) for name in names), [])
    storage.objects[names[2]] = whole[names[2]][:-1] + bytes([whole[names[2]][-1] ^ 1])
    assert [error.fields["name"] for error in repo.log(CLUSTER).check()[1]] == [names[2]]
    storage.objects[names[2]] = whole[names[2]]
    # Under a name that says another position, with its own hash
    moved = names[1].replace(f"{BASE + 100:016x}", f"{BASE + 100 + (1 << 20) + 1:016x}", 1)
    storage.objects[moved] = storage.objects.pop(names[1])
    with pytest.raises(Damaged):
        read()
    del storage.objects[moved]
    with pytest.raises(Damaged, match="nothing at"):
        read()


def test_R1_and_R7_a_unit_is_written_once_and_decoded_before_it_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    repo = filled(storage)
    before = dict(storage.objects)
    with repo.log_writer(CLUSTER) as writer:
        monkeypatch.setattr("icecore.repository.log.open_unit", lambda *_: ({}, iter([b"something else"])))
        with pytest.raises(Damaged, match="does not decode"):
            writer.append(1, BASE, b"data", 1, FACTS)
    assert storage.objects == before


def test_two_archivers_cannot_interleave() -> None:
    storage = MemoryStorage()
    repo = filled(storage)
    with repo.log_writer(CLUSTER) as writer:
        with pytest.raises(LeaseHeld):
            repo.log_writer(CLUSTER)
        with repo.writer(CLUSTER):  # a backup is not in the way
            writer.append(1, BASE + len(LOG), b"more", 99, FACTS)
        before = dict(storage.objects)
        storage.usurp(f"logs/{CLUSTER}")
        units = repo.log(CLUSTER).listing.units
        for act in (
            lambda: writer.append(1, BASE + len(LOG) + 4, b"stale", 99, FACTS),
            lambda: writer.merge(units),
            lambda: writer.drop(units),
        ):
            with pytest.raises(LeaseHeld):
                act()
        assert storage.objects == before


def test_merged_units_say_the_same_and_a_crash_in_between_loses_nothing() -> None:
    for fail_at in range(1, 40):
        storage = MemoryStorage()
        repo = filled(storage)
        units = repo.log(CLUSTER).listing.units
        storage.calls, storage.fail_at = 0, fail_at
        try:
            with repo.log_writer(CLUSTER) as writer:
                writer.merge(units)
        except StorageFailed:
            storage.fail_at = None
        else:
            storage.fail_at = None
            assert len(repo.log(CLUSTER).listing.units) == 1
            break
        assert b"".join(repo.log(CLUSTER).read(1, BASE, BASE + len(LOG))) == LOG
    else:
        pytest.fail("it never ran to its end")


def test_what_is_merged_while_it_is_read_is_found_again() -> None:
    repo = filled(MemoryStorage())
    log = repo.log(CLUSTER)
    reading = log.read(1, BASE, BASE + len(LOG))
    begun = next(reading)
    with repo.log_writer(CLUSTER) as writer:
        writer.merge(repo.log(CLUSTER).listing.units)
    assert begun + b"".join(reading) == LOG


def test_collection_and_deletion_leave_the_log_alone(tmp_path: Path) -> None:
    repo = filled(LocalStorage(tmp_path / "repo"))
    back_up(repo, "1", {"a": b"x" * 10_000})
    back_up(repo, "2", {"a": b"y" * 10_000})
    repo.delete_backup(CLUSTER, "1")
    assert repo.collect(CLUSTER).objects_removed > 0
    assert set(everything(repo)) == {"2"}
    assert b"".join(repo.log(CLUSTER).read(1, BASE, BASE + len(LOG))) == LOG
    repo.delete_log(CLUSTER)
    assert not repo.log(CLUSTER).listing.units and set(everything(repo)) == {"2"}


def test_a_cover_takes_the_longest_and_finds_every_hole() -> None:
    def unit(start: int, end: int) -> LogUnit:
        return LogUnit(1, start, end, 0)

    listed = (unit(0, 5), unit(0, 10), unit(5, 10), unit(10, 10), unit(10, 12), unit(14, 20))
    assert [(low, high) for _, low, high in cover(listed, 1, 2, 11)] == [(2, 10), (10, 11)]
    for start, end in ((11, 15), (12, 13), (13, 20), (19, 21)):
        with pytest.raises(Damaged):
            cover(listed, 1, start, end)


def test_where_an_archiver_goes_on() -> None:
    segment = 16 << 20
    server = LogServer("7", "15", 3, 9 * segment, 5 * segment, segment, 8192, ((1, 3 * segment + 5), (2, 6 * segment)))
    cases = {
        (): (3, 5 * segment),  # nothing is here: from where the server keeps it
        ((3, 7 * segment + 9),): (3, 7 * segment + 9),
        ((1, segment), (2, 4 * segment)): (2, 4 * segment),  # the ancestor goes on to where it was left
        ((2, 6 * segment + 77),): (3, 6 * segment),  # past it, on the branch that was given up
        ((1, 3 * segment + 5),): (2, 3 * segment),  # then the next one, from its segment on
        ((9, segment),): (3, 5 * segment),
    }
    for ends, expected in cases.items():
        units = [LogUnit(timeline, 0, end, 0) for timeline, end in ends]
        assert archive.begin_at(units, server) == expected, ends
    assert archive.contiguous([LogUnit(1, 0, 5, 0), LogUnit(1, 7, 9, 0), LogUnit(1, 9, 9, 0)], 1, 9) == [
        LogUnit(1, 7, 9, 0),
        LogUnit(1, 9, 9, 0),
    ]


# ---------------------------------------------------------------- the procedure, on a log of bytes


class _Records:
    """Every byte is a commit at its own position's time."""

    def __init__(self, position: int) -> None:
        self.position = self.last_record = self.last_end = position
        self._latest = 0

    def feed(self, data: bytes | memoryview) -> None:
        self.position += len(data)
        self.last_record, self.last_end, self._latest = self.position - 1, self.position, self.position - 1

    def latest_commit_us(self) -> int:
        return self._latest


class _Stream:
    """A server whose log is ``position % 251`` everywhere; it ends after some pieces."""

    def __init__(self, pieces: int, chance: random.Random, wanted: list[bool], position: int = 0) -> None:
        self._left, self._chance, self._wanted, self._at = pieces, chance, wanted, position
        self.acknowledged = 0

    def open(self) -> LogServer:
        return LogServer("7", "15", 1, 0, BASE, 1 << 24, 8192)

    def start(self, timeline: int, position: int) -> None:
        self._at = position

    def records(self, server: LogServer, position: int) -> _Records:
        return _Records(position)

    def receive(self, timeout_s: float) -> LogChunk:
        self._left -= 1
        if self._left <= 0:
            self._wanted[0] = False
        size = self._chance.choice([1000, 300_000, 5 << 20])
        data = (bytes(range(251)) * (size // 251 + 2))[self._at % 251 :][:size]
        chunk = LogChunk(self._at, data, self._at + size, 0)
        self._at += size
        return chunk

    def acknowledge(self, position: int) -> None:
        self.acknowledged = position

    def quiet_at_us(self, position: int) -> int:
        return 0

    def server_position(self) -> int:
        return self._at

    def close(self) -> None: ...
    def history(self, timeline: int) -> bytes:
        raise AssertionError


class _Watch:
    def __init__(self) -> None:
        self.going = [True]

    def wanted(self) -> bool:
        return self.going[0]

    def progressed(self, progress: archive.LogProgress) -> None: ...
    def gap(self, timeline: int, start: int, end: int) -> None:
        raise AssertionError("no gap")


def test_R2_a_log_that_was_acknowledged_is_there_whatever_storage_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "UNIT_BYTES", 200_000)
    monkeypatch.setattr(archive, "MERGE_UNITS", 4)
    chance = random.Random(11)
    storage = MemoryStorage()
    repo = Repository.create(storage, None)
    acknowledged = 0
    for _ in range(12):
        watch = _Watch()
        stream = _Stream(chance.randrange(1, 12), chance, watch.going)
        storage.calls, storage.fail_at = 0, chance.randrange(1, 60)
        with contextlib.suppress(StorageFailed):
            archive.run(stream, repo, CLUSTER, watch)
        storage.fail_at = None
        acknowledged = max(acknowledged, stream.acknowledged)
        units = repo.log(CLUSTER).listing.units
        end = max((unit.end for unit in units), default=BASE)
        assert end >= acknowledged
        at = BASE
        for piece in repo.log(CLUSTER).read(1, BASE, end):
            assert piece == (bytes(range(251)) * (len(piece) // 251 + 2))[at % 251 :][: len(piece)]
            at += len(piece)
        # What a unit knows is what its last byte says: commits behind its end are not known to it
        assert all(unit.known_at_us == unit.end - 1 for unit in units if unit.end > unit.start)
        assert all(unit.start // STRIDE_BYTES == (unit.end - 1) // STRIDE_BYTES for unit in units)
    assert end - BASE > 2 * STRIDE_BYTES, "too little log: the test shows nothing"
    assert len(units) < (end - BASE) // STRIDE_BYTES + 3 * 6
