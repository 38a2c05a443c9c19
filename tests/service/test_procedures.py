"""Backup and restore over simulated files: same bytes out as in, whatever stops them and wherever."""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import simulated
from simulated import QuietWatch, SimulatedEngine, SimulatedRestore, some_files, tree

from icecore import backup, copying, crew, directio, errors, laying, receiving, restore
from icecore.binding import Part, binds
from icecore.crew import Crew
from icecore.engines import RestoreTarget
from icecore.laps import Laps
from icecore.pace import Pace
from icecore.repository import Repository
from icecore.repository.blocks import BlockCodec
from icecore.storage.memory import MemoryStorage
from icecore.watch import WAITED_FOR

BLOCK_BYTES = 4096
STEPS = [
    "probed", "leased", "started", "imaged", "copied", "closing-copied", "stopped",
    "session-closed", "uploaded", "blocks-finished", "checked", "committed",
]  # fmt: skip


class Stopped(Exception):
    """What a kill looks like from inside: nothing after it runs."""


def order(number: int = 1, job_uuid: str = "uuid") -> backup.BackupOrder:
    return backup.BackupOrder(str(number), "pc-1", "orders", job_uuid, client_token="t", token_digest="d")


def make(
    engine, storage, tmp_path: Path, *, number: int = 1, watch=None, threads: int = 2, job_uuid: str = "uuid", **more
):
    repository = Repository.open(storage, None)
    watch = watch or QuietWatch()
    return backup.run(engine, repository, order(number, job_uuid), watch, scratch=tmp_path, threads=threads, **more)


def restored(storage, place: Path, number: int = 1, laps: Laps | None = None, **more) -> dict[str, bytes | None]:
    repository = Repository.open(storage, None)
    reader = repository.reader("pc-1", str(number))
    plan = restore.plan(
        reader, SimulatedRestore(), RestoreTarget(place, {}), owner=None, block_bytes=repository.block_bytes
    )
    watch = QuietWatch(lambda name: laps.passed(WAITED_FOR.get(name)) if laps else None)
    restore.run(plan, reader, SimulatedRestore(), watch, threads=2, laps=laps, **more)
    return tree(place)


@pytest.fixture
def storage() -> MemoryStorage:
    made = MemoryStorage()
    Repository.create(made, None, block_bytes=BLOCK_BYTES)
    return made


@pytest.mark.parametrize("ordered", [False, True])
def test_what_comes_out_is_what_went_in(storage, tmp_path, ordered):
    engine = SimulatedEngine(some_files(1), ordered=ordered)
    done = make(engine, storage, tmp_path)
    assert done.facts.client_token == "t" and done.facts.file_count == len(engine.files)
    assert restored(storage, tmp_path / "out") == dict(sorted(engine.files.items()))


def test_a_span_boundary_inside_a_file(storage, tmp_path, monkeypatch):
    """Files longer than a span are read by several tasks; short, exact and long ones come out alike."""
    monkeypatch.setattr(copying, "SPAN_BYTES", 2 * BLOCK_BYTES)
    monkeypatch.setattr(laying, "SPAN_BYTES", 2 * BLOCK_BYTES)
    engine = SimulatedEngine({f"f{n}": bytes([n + 1]) * (n * BLOCK_BYTES + n % 3) for n in range(9)})
    make(engine, storage, tmp_path)
    assert restored(storage, tmp_path / "out") == dict(sorted(engine.files.items()))


def test_a_slow_backup_is_the_same_backup_and_a_cancel_does_not_wait_for_it(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "LISTEN_EVERY_S", 0.05)
    engine = SimulatedEngine({"a": os.urandom(40 * BLOCK_BYTES), "b": b"short"})
    began = time.monotonic()
    make(engine, storage, tmp_path, pace=Pace(80 * BLOCK_BYTES))
    assert time.monotonic() - began >= 0.5  # 40 blocks at 80 a second
    assert restored(storage, tmp_path / "out") == dict(sorted(engine.files.items()))

    def cancel(name: str) -> None:
        if name == "copying":
            raise Stopped

    with pytest.raises(Stopped):  # at one byte a second the first span alone takes a day
        make(engine, storage, tmp_path, number=2, pace=Pace(1), watch=QuietWatch(cancel))
    assert Repository.open(storage, None).has("pc-1", "2") is None


def test_a_stream_is_received_while_others_store_what_came_and_a_cancel_is_heard_in_the_midst(
    storage, tmp_path, monkeypatch
):
    monkeypatch.setattr(copying, "LISTEN_EVERY_S", 0.05)
    monkeypatch.setattr(receiving, "PIECE_BYTES", BLOCK_BYTES)
    packing, overlapped = 0, 0
    read, pack = simulated._Reader.read, BlockCodec.pack

    def counted_read(*args):
        nonlocal overlapped
        overlapped += packing > 0
        time.sleep(0.01)
        return read(*args)

    def counted_pack(*args, **options):
        nonlocal packing
        packing += 1
        time.sleep(0.02)
        packing -= 1
        return pack(*args, **options)

    monkeypatch.setattr(simulated._Reader, "read", counted_read)
    monkeypatch.setattr(BlockCodec, "pack", counted_pack)
    engine = SimulatedEngine({"a": os.urandom(100 * BLOCK_BYTES), "b": b"short", "c": b""}, ordered=True)
    make(engine, storage, tmp_path)
    assert overlapped > 50
    assert restored(storage, tmp_path / "out") == dict(sorted(engine.files.items()))

    def cancel(name: str) -> None:
        if name == "copying" and time.monotonic() - began > 0.2:
            raise Stopped

    for pace, wait_s in ((Pace(1), 0.0), (None, 0.2)):  # held by the limit, by a server that sends little
        Slow(monkeypatch, simulated._Reader, "read", wait_s)
        began = time.monotonic()
        with pytest.raises(Stopped):
            make(engine, storage, tmp_path, number=2, pace=pace, watch=QuietWatch(cancel))
        assert time.monotonic() - began < 5.0  # the file alone takes days, and 20 s
    assert Repository.open(storage, None).has("pc-1", "2") is None


def test_files_that_vanish_or_are_omitted_are_left_out(storage, tmp_path):
    engine = SimulatedEngine(some_files(2))
    engine.vanishing, engine.omitted = {"base/1/1"}, {"base/1/2"}
    make(engine, storage, tmp_path)
    assert set(engine.files) - set(restored(storage, tmp_path / "out")) == {"base/1/1", "base/1/2"}


def test_a_file_that_shrinks_is_kept_as_far_as_it_was_read(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "SPAN_BYTES", 2 * BLOCK_BYTES)
    engine = SimulatedEngine({"f": b"x" * (7 * BLOCK_BYTES)})
    listed = list(SimulatedEngine.start(engine, "", tmp_path).files())
    engine.files["f"] = b"x" * (3 * BLOCK_BYTES + 5)
    monkeypatch.setattr("simulated.SimulatedSession.files", lambda self: iter(listed))
    make(engine, storage, tmp_path)
    assert restored(storage, tmp_path / "out")["f"] == b"x" * (3 * BLOCK_BYTES + 5)


@pytest.mark.parametrize("step", STEPS)
def test_R4_stopped_at_each_step_then_run_again(storage, tmp_path, step):
    """A backup exists exactly from its manifest on; a rerun makes or adopts one and the same."""

    def stop(name: str) -> None:
        if name == step:
            raise Stopped

    engine = SimulatedEngine(some_files(3))
    with pytest.raises(Stopped):
        make(engine, storage, tmp_path, watch=QuietWatch(stop))
    assert all(session.closed for session in engine.sessions)
    exists = Repository.open(storage, None).has("pc-1", "1") is not None
    assert exists == (step == "committed")
    again = make(engine, storage, tmp_path)
    assert again.adopted == exists
    assert restored(storage, tmp_path / "out") == dict(sorted(engine.files.items()))
    assert len(list(Repository.open(storage, None).backups("pc-1"))) == 1


def test_steps_are_the_ones_that_tests_kill_at(storage, tmp_path):
    watch = QuietWatch()
    make(SimulatedEngine(some_files(4)), storage, tmp_path, watch=watch)
    assert [step for step in watch.steps if step != "copying"] == STEPS


def test_R1_another_jobs_manifest_is_never_adopted(storage, tmp_path):
    make(SimulatedEngine(some_files(5)), storage, tmp_path)
    with pytest.raises(errors.Damaged):
        make(SimulatedEngine(some_files(6)), storage, tmp_path, job_uuid="another")
    assert restored(storage, tmp_path / "out") == dict(sorted(SimulatedEngine(some_files(5)).files.items()))


def test_R2_R3_storage_that_fails_at_the_nth_call(tmp_path):
    """For every n: the backup fails cleanly or succeeds, an older one stays readable, and a retry succeeds."""
    old, new = SimulatedEngine(some_files(7)), SimulatedEngine(some_files(8))
    n, finished = 0, False
    while not finished:
        n += 1
        storage = MemoryStorage()
        Repository.create(storage, None, block_bytes=BLOCK_BYTES)
        make(old, storage, tmp_path, number=1)
        storage.fail_at = storage.calls + n
        try:
            make(new, storage, tmp_path, number=2, job_uuid="second", threads=1)
            finished = True
        except errors.StorageFailed:
            pass
        storage.fail_at = None
        assert all(session.closed for session in new.sessions)
        assert restored(storage, tmp_path / f"old{n}", 1) == dict(sorted(old.files.items()))
        make(new, storage, tmp_path, number=2, job_uuid="second")
        assert restored(storage, tmp_path / f"new{n}", 2) == dict(sorted(new.files.items()))
    assert n > 5


def test_a_lost_session_ends_the_backup(storage, tmp_path):
    engine = SimulatedEngine(some_files(9))
    engine.dead = True
    with pytest.raises(errors.EngineFailed):
        make(engine, storage, tmp_path)
    assert Repository.open(storage, None).has("pc-1", "1") is None


def test_a_restore_never_leaves_its_directory(storage, tmp_path):
    for number, path in enumerate(("../escaped", "/etc/escaped", "base/../../escaped"), start=1):
        engine = SimulatedEngine({path: b"x"})
        try:
            make(engine, storage, tmp_path, number=number)
        except errors.IcecoreError:
            continue  # the repository would not even store such a name
        with pytest.raises(errors.Damaged):
            restored(storage, tmp_path / f"out{number}", number)
    assert not (tmp_path / "escaped").exists()


def test_a_restore_refuses_before_the_first_byte(storage, tmp_path):
    make(SimulatedEngine(some_files(10)), storage, tmp_path)
    place = tmp_path / "taken"
    place.mkdir()
    (place / "precious").write_text("x")
    with pytest.raises(errors.TargetRefused):
        restored(storage, place)
    assert tree(place) == {"precious": b"x"}


def test_a_failed_restore_cannot_be_started(storage, tmp_path):
    """Without its last file no server accepts the directory."""
    make(SimulatedEngine(some_files(11)), storage, tmp_path)
    repository = Repository.open(storage, None)
    reader = repository.reader("pc-1", "1")
    target = RestoreTarget(tmp_path / "out", {})
    plan = restore.plan(reader, SimulatedRestore(), target, owner=None, block_bytes=repository.block_bytes)

    def stop(name: str) -> None:
        if name == "files-finished":
            raise Stopped

    with pytest.raises(Stopped):
        restore.run(plan, reader, SimulatedRestore(), QuietWatch(stop), threads=2)
    assert (tmp_path / "out" / "base").exists() and not (tmp_path / "out" / "global" / "pg_control").exists()


def test_blocks_that_do_not_divide_a_span(tmp_path, monkeypatch):
    """A span must begin with a block, when stored and when laid; a block size may be any multiple of 4 KiB."""
    for module in (copying, laying):
        monkeypatch.setattr(module, "SPAN_BYTES", 10 * BLOCK_BYTES)
    storage = MemoryStorage()
    Repository.create(storage, None, block_bytes=3 * BLOCK_BYTES)
    dice = random.Random(12)
    engine = SimulatedEngine({f"f{n}": dice.randbytes(n * 5 * BLOCK_BYTES + n) for n in range(9)})
    make(engine, storage, tmp_path)
    assert restored(storage, tmp_path / "out") == dict(sorted(engine.files.items()))


def test_modes_come_back_also_of_files_that_nobody_may_write(storage, tmp_path, monkeypatch):
    modes = {"closed": 0o400, "open": 0o640, "empty": 0o440}
    engine = SimulatedEngine({"closed": b"x" * 9000, "open": b"y", "empty": b""})
    listed = list(SimulatedEngine.start(engine, "", tmp_path).files())
    for file in listed:
        file.meta = replace(file.meta, mode=modes.get(file.meta.path, file.meta.mode))
    monkeypatch.setattr("simulated.SimulatedSession.files", lambda self: iter(listed))
    make(engine, storage, tmp_path)
    restored(storage, tmp_path / "out")
    assert {name: (tmp_path / "out" / name).stat().st_mode & 0o7777 for name in modes} == modes


class Slow:
    """What it is asked for takes ``seconds`` longer."""

    def __init__(self, monkeypatch, owner, method: str, seconds: float) -> None:
        inner = getattr(owner, method)

        def slow(*args, **options):
            time.sleep(seconds)
            return inner(*args, **options)

        monkeypatch.setattr(owner, method, slow)


@pytest.mark.parametrize(
    ("bound", "owner", "method"),
    [
        (Part.READ, simulated._Reader, "read"),
        (Part.CPU, BlockCodec, "pack"),
        (Part.WRITE, MemoryStorage, "put"),
        (Part.SERVER, simulated.SimulatedSession, "stop"),
    ],
)
def test_what_is_slow_is_what_binds(storage, tmp_path, monkeypatch, bound, owner, method):
    laps = Laps()
    watch = QuietWatch(lambda name: laps.passed(WAITED_FOR.get(name)))
    Slow(monkeypatch, owner, method, {"read": 0.3, "put": 0.3, "stop": 0.5}.get(method, 0.01))
    make(SimulatedEngine({"a": os.urandom(60 * BLOCK_BYTES)}), storage, tmp_path, watch=watch, laps=laps)
    assert binds(laps.spent_ms()) is bound, laps.spent_ms()


def test_a_limit_that_is_kept_to_is_what_binds_and_a_stream_is_the_networks(storage, tmp_path, monkeypatch):
    for number, (bound, pace) in enumerate({Part.PACE: Pace(100 * BLOCK_BYTES), Part.NETWORK: None}.items()):
        laps = Laps()
        watch = QuietWatch(lambda name, laps=laps: laps.passed(WAITED_FOR.get(name)))
        if bound is Part.NETWORK:
            Slow(monkeypatch, simulated._Reader, "read", 0.3)
        engine = SimulatedEngine({"a": os.urandom(60 * BLOCK_BYTES)}, ordered=bound is Part.NETWORK)
        make(engine, storage, tmp_path, number=number + 1, watch=watch, pace=pace, laps=laps)
        assert binds(laps.spent_ms()) is bound, laps.spent_ms()


@pytest.mark.parametrize(
    ("bound", "owner", "method"),
    [(Part.READ, MemoryStorage, "get_ranges"), (Part.CPU, BlockCodec, "unpack"), (Part.WRITE, directio, "write_at")],
)
def test_what_is_slow_binds_a_restore(storage, tmp_path, monkeypatch, bound, owner, method):
    make(SimulatedEngine({"a": os.urandom(60 * BLOCK_BYTES)}), storage, tmp_path)
    Slow(monkeypatch, owner, method, 0.01 if method == "unpack" else 0.3)
    laps = Laps()
    restored(storage, tmp_path / "out", laps=laps)
    assert binds(laps.spent_ms()) is bound, laps.spent_ms()


@pytest.mark.parametrize(("slow", "more"), [(simulated._Reader, True), (BlockCodec, False)])
def test_more_threads_read_where_reading_is_slow_and_only_there(storage, tmp_path, monkeypatch, slow, more):
    monkeypatch.setattr(crew, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(copying, "LISTEN_EVERY_S", 0.05)
    monkeypatch.setattr(copying, "READ_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(copying, "SPAN_BYTES", 4 * BLOCK_BYTES)
    monkeypatch.setattr(copying, "GROUP_BYTES", 0)
    at_work, most, lock = 0, 0, threading.Lock()
    inner = simulated._Reader.read

    def read(*args):
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        try:
            if more:
                time.sleep(0.02)  # a disk far away
            return inner(*args)
        finally:
            with lock:
                at_work -= 1

    monkeypatch.setattr(simulated._Reader, "read", read)
    if not more:
        Slow(monkeypatch, slow, "pack", 0.02)
    engine = SimulatedEngine({"a": os.urandom(200 * BLOCK_BYTES)})
    make(engine, storage, tmp_path, readers_at_most=16)
    assert (most > 2) == more, most
    assert restored(storage, tmp_path / "out") == dict(sorted(engine.files.items()))


def test_in_the_background_half_of_them_are_at_work(storage, tmp_path, monkeypatch):
    found = Crew(4, 16, 2, Laps(), Pace(background=True))
    assert found.size == 2 and Crew(1, 1, 2, Laps(), Pace(background=True)).size == 1


def test_more_threads_restore_where_the_repository_is_slow(storage, tmp_path, monkeypatch):
    engine = SimulatedEngine({"a": os.urandom(240 * BLOCK_BYTES)})
    make(engine, storage, tmp_path)
    monkeypatch.setattr(crew, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(laying, "SPAN_BYTES", 3 * BLOCK_BYTES)
    threads: set[int] = set()
    inner = MemoryStorage.get_ranges

    def get_ranges(*args):
        threads.add(threading.get_ident())
        time.sleep(0.05)
        return inner(*args)

    monkeypatch.setattr(MemoryStorage, "get_ranges", get_ranges)
    assert restored(storage, tmp_path / "out", readers_at_most=16) == dict(sorted(engine.files.items()))
    assert len(threads) > 4  # two, and the procedure's own
