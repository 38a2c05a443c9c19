"""Reading and checking source files: what is accepted, what is reported, and what a vanished file means."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from test_pagecheck import PAGE, made

from icecore.engines import SourceVanished
from icecore.engines.postgresql import files
from icecore.engines.postgresql.files import LocalFile, PageCheck, PageFaults
from icecore.engines.postgresql.walk import Found, relation_of
from icecore.errors import EngineFailed
from icecore.model import FileKind, FileMeta

PAGES = 40


@pytest.fixture
def relation(tmp_path: Path) -> Path:
    """The second segment of a relation, with small segments of 1000 pages: block numbers start at 1000."""
    path = tmp_path / "16384.1"
    path.write_bytes(b"".join(made(n, 1000 + n) for n in range(PAGES)))
    return path


def opened(path: Path, faults: PageFaults, *, size_bytes: int | None = None) -> LocalFile:
    size = path.stat().st_size if size_bytes is None else size_bytes
    meta = FileMeta(f"base/5/{path.name}", FileKind.FILE, 0o600, 0, size)
    check = PageCheck(faults, page_bytes=PAGE, pages_per_segment=1000)
    return LocalFile(Found(meta, path, relation_of(path.name)), check)


def read(file: LocalFile, offset: int = 0, length: int = PAGES * PAGE) -> bytes:
    view = memoryview(bytearray(length))
    with file.open() as reader:
        return bytes(view[: reader.read(offset, view)])


def spoil(path: Path, page: int, value: bytes = b"??") -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE + 3000)
        file.write(value)


def test_sound_pages_are_read_in_silence(relation: Path) -> None:
    faults = PageFaults()
    assert read(opened(relation, faults)) == relation.read_bytes()
    assert faults.warnings() == []


def test_damage_is_reported_with_the_relations_block(relation: Path) -> None:
    faults = PageFaults()
    spoil(relation, 7)
    file = opened(relation, faults)
    assert read(file) == relation.read_bytes()
    assert read(file, 7 * PAGE, PAGE) == relation.read_bytes()[7 * PAGE : 8 * PAGE]
    assert faults.warnings() == ["base/5/16384.1: page checksum does not match in block 1007"]


@pytest.mark.parametrize(("offset", "length", "seen"), [(100, 20 * PAGE, True), (7 * PAGE + 1, 20 * PAGE, False)])
def test_whole_pages_of_odd_pieces_are_checked(relation: Path, offset: int, length: int, seen: bool) -> None:
    faults = PageFaults()
    spoil(relation, 7)
    read(opened(relation, faults), offset, length)
    assert bool(faults.warnings()) is seen


def test_a_write_in_flight_is_waited_for(relation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "REREAD_PAUSE_S", 0.2)
    faults, whole = PageFaults(), relation.read_bytes()
    spoil(relation, 7)

    def finish() -> None:
        time.sleep(0.1)
        with relation.open("r+b") as file:
            file.seek(7 * PAGE)
            file.write(whole[7 * PAGE : 8 * PAGE])

    writer = threading.Thread(target=finish)
    writer.start()
    assert read(opened(relation, faults)) == whole, "the newer bytes are taken"
    writer.join()
    assert faults.warnings() == []


def test_a_page_that_keeps_changing_does_not_loop(relation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults, reads = PageFaults(), []
    spoil(relation, 7)
    genuine = files.LocalReader._fill

    def fill(reader: files.LocalReader, into: memoryview, offset: int) -> int:
        reads.append(offset)
        spoil(relation, 7, len(reads).to_bytes(2, "big"))
        return genuine(reader, into, offset)

    monkeypatch.setattr(files.LocalReader, "_fill", fill)
    read(opened(relation, faults))
    assert faults.warnings() == [] and reads == [0, 7 * PAGE]


def test_a_page_truncated_meanwhile_is_no_damage(relation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "REREAD_PAUSE_S", 0.2)
    faults = PageFaults()
    spoil(relation, 30)
    timer = threading.Timer(0.1, lambda: os.truncate(relation, 30 * PAGE + 100))
    timer.start()
    read(opened(relation, faults))
    timer.join()
    assert faults.warnings() == []


def test_many_damaged_pages_do_not_take_for_ever(relation: Path) -> None:
    faults = PageFaults()
    relation.write_bytes(b"\1" * PAGE * 4000)
    began = time.monotonic()
    file = opened(relation, faults)
    for offset in range(0, 4000 * PAGE, 16 * PAGE):
        read(file, offset, 16 * PAGE)
    assert time.monotonic() - began < 5
    (warning,) = faults.warnings()
    assert "blocks 1000, 1001, " in warning and warning.endswith(" more")
    assert faults.count("base/5/16384.1") > 3990  # of 4000, one or so has this very checksum by chance


def test_never_past_the_listed_size_and_short_only_at_the_end(relation: Path) -> None:
    faults = PageFaults()
    file = opened(relation, faults, size_bytes=10 * PAGE + 5)
    assert len(read(file)) == 10 * PAGE + 5
    assert read(file, 10 * PAGE + 5, 100) == b"" and read(file, 99 * PAGE, 100) == b""
    os.truncate(relation, 3 * PAGE)
    assert len(read(file)) == 3 * PAGE
    assert faults.warnings() == []


def test_what_is_no_relation_is_not_checked(tmp_path: Path) -> None:
    path = tmp_path / "pg_filenode.map"
    path.write_bytes(b"\1" * PAGE)
    faults = PageFaults()
    assert len(read(opened(path, faults), 0, PAGE)) == PAGE and not faults.warnings()


def test_vanishing(tmp_path: Path) -> None:
    faults = PageFaults()
    database = tmp_path / "16385"
    database.mkdir()
    for name in ("16386", "PG_VERSION", "pg_filenode.map"):
        (database / name).write_bytes(b"x")
    listed = {name: opened(database / name, faults) for name in ("16386", "PG_VERSION", "pg_filenode.map")}
    # 1. A dropped relation is normal; a database does not lose its map and stay.
    (database / "16386").unlink()
    with pytest.raises(SourceVanished):
        listed["16386"].open()
    (database / "pg_filenode.map").unlink()
    with pytest.raises(EngineFailed, match="vanished"):
        listed["pg_filenode.map"].open()
    # 2. With the whole database it may.
    (database / "PG_VERSION").unlink()
    database.rmdir()
    for file in listed.values():
        with pytest.raises(SourceVanished):
            file.open()
