"""Random histories of files and their images, crashes included: what an image proves is held against the bytes that its
backup read. ``ICECORE_SEED`` and ``ICECORE_HISTORY`` (steps) make others and longer ones (``make soak``)."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import random
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from filesystems import SHARING, crash, mounted
from icecore.images import PLACE, Images, extents
from icecore.images.clones import CannotClone, clone_file, share
from icecore.images.extents import Seal, unchanged_blocks

SEED = int(os.environ.get("ICECORE_SEED", "20261125"))
STEPS = int(os.environ.get("ICECORE_HISTORY", "160"))
BLOCK = 32 << 10
LARGEST = 1 << 20
KEPT_AT_MOST = 4
NAMES = ("a", "b", "packed")  # the last one is compressed, where the file system can
FICLONERANGE, FIDEDUPERANGE = 0x4020940D, 0xC0189436
PUNCH, COLLAPSE, ZERO, INSERT, KEEP_SIZE = 0x03, 0x08, 0x10, 0x20, 0x01
LIBC = ctypes.CDLL(None)


class History:
    """Live files below ``point`` and their images, with the bytes that each image had when it was made."""

    def __init__(self, point: Path, draw: random.Random) -> None:
        self.point, self.draw = point, draw
        self.live = point / "live"
        self.read: dict[str, dict[str, bytes]] = {}  # image -> path -> what its backup read
        self.number, self.proven, self.laid = 0, 0, 0
        self.may_crash = True
        self.done: Counter[str] = Counter()
        for name in NAMES:
            (self.live / name).mkdir(parents=True)
        subprocess.run(["chattr", "+c", str(self.live / "packed")], check=False, capture_output=True)
        for name in NAMES:
            self.file(name).write_bytes(self.bytes(name, LARGEST // 2))

    def file(self, name: str) -> Path:
        return self.live / name / "file"

    def any(self) -> tuple[str, Path]:
        name = self.draw.choice(NAMES)
        return name, self.file(name)

    def imaged(self) -> list[Path]:
        return sorted((self.point / PLACE).rglob("file"))

    def bytes(self, name: str, count: int) -> bytes:
        if name == "packed":
            return (self.draw.choice([b"some ", b"other ", b"words "]) * 200_000)[:count]
        return bytes(count) if self.draw.random() < 0.1 else self.draw.randbytes(count)

    def span(self, size: int) -> tuple[int, int]:
        length = self.draw.choice([1, 511, 4096, 8192, 8192, BLOCK, 100_000])
        at = self.draw.randrange(max(size, 1))
        return (at - at % self.draw.choice([1, 4096, 8192])), length

    # ------------------------------------------------------------ what happens to files

    def write(self) -> None:
        name, path = self.any()
        with path.open("r+b") as file:
            for _ in range(self.draw.randrange(1, 6)):
                at, length = self.span(os.fstat(file.fileno()).st_size)
                os.pwrite(file.fileno(), self.bytes(name, length), at)
            if self.draw.random() < 0.3:
                os.fsync(file.fileno())

    def write_through_memory(self) -> None:
        _, path = self.any()
        if path.stat().st_size:
            with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
                at = self.draw.randrange(len(view))
                view[at : at + 4096] = self.draw.randbytes(len(view[at : at + 4096]))

    def write_past_the_cache(self) -> None:
        _, path = self.any()
        buffer = mmap.mmap(-1, 8192)
        buffer.write(self.draw.randbytes(8192))
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT)
            try:
                os.pwritev(descriptor, [buffer], self.draw.randrange(LARGEST // 8192) * 8192)
            finally:
                os.close(descriptor)

    def resize(self) -> None:
        name, path = self.any()
        size = path.stat().st_size
        match self.draw.randrange(3):
            case 0:
                os.truncate(path, self.draw.randrange(size + 1))
            case 1:
                os.truncate(path, min(size + self.span(size)[1], LARGEST))
            case _:
                with path.open("ab") as file:
                    file.write(self.bytes(name, self.span(size)[1]))
        if path.stat().st_size > LARGEST:
            os.truncate(path, LARGEST)

    def allocate(self) -> None:
        _, path = self.any()
        mode = self.draw.choice([0, KEEP_SIZE, PUNCH, PUNCH, ZERO, ZERO | KEEP_SIZE, COLLAPSE, INSERT])
        at, length = self.span(path.stat().st_size)
        if mode in (COLLAPSE, INSERT):
            at, length = at & ~4095, 8192
        with path.open("r+b") as file:
            LIBC.fallocate(file.fileno(), mode, ctypes.c_long(at), ctypes.c_long(length))

    def replace(self) -> None:
        name, path = self.any()
        other = path.with_name("other")
        other.write_bytes(self.bytes(name, self.draw.randrange(LARGEST)))
        if self.draw.random() < 0.5:
            path.unlink()  # the inode may be used again at once
        other.rename(path)

    def share_within(self) -> None:
        """Part of one file becomes part of another, or of itself elsewhere."""
        (_, source), (_, target) = self.any(), self.any()
        offsets = [self.draw.randrange(LARGEST // 4096) * 4096 for _ in range(2)]
        with source.open("rb") as reading, target.open("r+b") as writing, contextlib.suppress(OSError):
            told = struct.pack(
                "=qQQQ", reading.fileno(), offsets[0], self.draw.choice([4096, BLOCK, 131072]), offsets[1]
            )
            fcntl.ioctl(writing, FICLONERANGE, told)

    def deduplicate(self) -> None:
        """What holds the same bytes shares them, as duperemove does it: in live files and in images."""
        files = [self.file(name) for name in NAMES]
        files += self.imaged()
        for _ in range(4):
            deduplicate(self.draw.choice(files), self.draw.choice(files), self.draw.randrange(LARGEST // BLOCK) * BLOCK)

    def defragment(self) -> None:
        _, path = self.any()
        if self.draw.random() < 0.5:
            path = self.draw.choice(self.imaged() or [path])
        subprocess.run(["btrfs", "filesystem", "defragment", "-f", str(path)], check=False, capture_output=True)
        if not self.may_crash:  # XFS of Linux 6.18 could not replay its log after xfs_fsr and a crash
            subprocess.run(["xfs_fsr", str(path)], check=False, capture_output=True)

    def take_back(self) -> None:
        """Somebody restores by hand: a live file shares the blocks of one in an image, be it what it was or not."""
        if found := self.imaged():
            source = self.draw.choice(found)
            if self.draw.random() < 0.5:
                self.tamper(source)
            target = self.file(source.parent.name)
            with source.open("rb") as reading, target.open("r+b") as writing, contextlib.suppress(CannotClone):
                os.truncate(writing.fileno(), 0)
                share(reading.fileno(), writing.fileno())

    def tamper(self, path: Path | None = None) -> None:
        """Root writes into an image. Durably: a power cut may keep bytes that were written in place and forget the
        change time with them; nobody but root could do that."""
        if path or (path := self.draw.choice(self.imaged() or [None])):
            with path.open("r+b") as file:
                file.seek(self.draw.randrange(max(path.stat().st_size, 1)))
                file.write(self.draw.randbytes(4096))
                file.flush()
                os.fsync(file.fileno())

    def sync(self) -> None:
        os.sync() if self.draw.random() < 0.1 else subprocess.run(["sync", "-f", str(self.live)], check=True)

    # ------------------------------------------------------------ what is done with images

    def image(self) -> None:
        """Made while somebody writes; held against every kept one; kept or dropped."""
        self.number += 1
        number, ended = str(self.number), threading.Event()
        writer = threading.Thread(target=self._write_meanwhile, args=(ended, random.Random(self.draw.random())))
        with Images("pc-h", [self.point]) as images:
            image = images.begin(number, 0)
            assert image is not None, "the file system is too full for an image"
            writer.start()
            try:
                taken = {f"{name}/file": image.take(f"{name}/file", self.file(name)) for name in NAMES}
            finally:
                ended.set()
                writer.join()
            image.sync()
            clones = {path: below / path for path, below in taken.items() if below}
            self.read[number] = {path: clone.read_bytes() for path, clone in clones.items()}
            for older in images.backup_ids():
                self._compare(images, older, number, clones)
            if self.draw.random() < 0.8:
                assert image.seal(f"job-{number}")
            else:
                image.drop()
            if len(images.backup_ids()) > self.draw.randrange(1, KEPT_AT_MOST + 1):
                images.keep_only(images.backup_ids()[0])

    def drop(self) -> None:
        if self.draw.random() < 0.3:
            with Images("pc-h", [self.point]) as images:
                images.keep_only("")

    def lay(self) -> None:
        """What an image still vouches for can be restored from it: by the same bytes."""
        with Images("pc-h", [self.point]) as images:
            for number in images.backup_ids():
                kept = images.kept(number, f"job-{number}")
                for path, before in self.read[number].items():
                    with (self.point / "onto").open("wb") as file:
                        if kept.lay(path, file.fileno(), len(before)):
                            assert (self.point / "onto").read_bytes() == before, f"image {number} of {path}"
                            self.laid += 1

    def crash(self) -> None:
        if self.may_crash and self.draw.random() < 0.5:
            crash(self.point)
            for name in NAMES:
                self.file(name).parent.mkdir(parents=True, exist_ok=True)
                self.file(name).touch()
            self.lay()

    def _compare(self, images: Images, older: str, newer: str, clones: dict[str, Path]) -> None:
        kept = images.kept(older, f"job-{older}")
        for path, clone in clones.items():
            proven = kept.unchanged(path, clone, BLOCK) if path in kept else None
            if proven is None:
                continue
            before, after = self.read[older][path], self.read[newer][path]
            assert len(proven) == -(-len(after) // BLOCK)
            for number in np.flatnonzero(proven):
                at = int(number) * BLOCK
                assert before[at : at + BLOCK] == after[at : at + BLOCK], f"{path}, block {number}: {older}, {newer}"
            self.proven += int(proven.sum())

    def _write_meanwhile(self, ended: threading.Event, draw: random.Random) -> None:
        while not ended.is_set():
            with self.file(draw.choice(NAMES)).open("r+b") as file:
                os.pwrite(file.fileno(), draw.randbytes(8192), draw.randrange(LARGEST // 8192) * 8192)
                if draw.random() < 0.2:
                    os.fsync(file.fileno())

    def run(self, steps: int) -> None:
        often = [self.write] * 5 + [self.resize] * 2 + [self.allocate] * 3 + [self.image] * 5
        rarely = [self.replace, self.share_within, self.share_within, self.deduplicate, self.defragment, self.take_back]
        rarely += [self.tamper, self.sync, self.drop, self.lay, self.crash, self.write_through_memory]
        for number in range(steps):
            self.may_crash = number < steps * 0.8
            step = self.draw.choice(often + rarely + [self.write_past_the_cache])
            self.done[step.__name__] += 1
            step()


def deduplicate(source: Path, target: Path, at: int) -> None:
    with source.open("rb") as reading, target.open("r+b") as writing, contextlib.suppress(OSError):
        told = bytearray(
            struct.pack("=QQHHI", at, BLOCK, 1, 0, 0) + struct.pack("=qQQiI", writing.fileno(), at, 0, 0, 0)
        )
        fcntl.ioctl(reading, FIDEDUPERANGE, told)


@pytest.fixture(params=[*SHARING, "btrfs without copy-on-write"])
def point(request: pytest.FixtureRequest) -> Iterator[Path]:
    kind, _, in_place = request.param.partition(" ")
    with mounted(kind, 512 << 20) as mounted_at:
        if in_place:
            subprocess.run(["chattr", "+C", str(mounted_at)], check=True)  # images too: else nothing could be cloned
        yield mounted_at


def test_no_history_proves_a_changed_block(point: Path) -> None:
    history = History(point, random.Random(SEED))
    try:
        history.run(STEPS)
    except BaseException as error:
        error.add_note(f"ICECORE_SEED={SEED}, after {dict(history.done)}")
        raise
    # it can fail: much was proven and much was laid
    assert history.proven > STEPS and history.laid, (history.proven, history.laid)


def test_one_compressed_extent_at_two_places_proves_nothing() -> None:
    """A map names a compressed extent's beginning, whichever part of it a file has at a place."""
    with mounted("btrfs", 256 << 20) as point:
        subprocess.run(["chattr", "+c", str(point)], check=True)
        live = point / "live"
        live.write_bytes(b"".join(word * 8192 for word in (b"one ", b"two ", b"3rd ", b"4th ")))  # one extent
        subprocess.run(["sync", "-f", str(point)], check=True)
        with live.open("r+b") as file:
            os.pwrite(file.fileno(), b"new " * 8192, 32 << 10)
            clone_file(live, point / "old")
            told = struct.pack("=qQQQ", file.fileno(), 0, 32 << 10, 64 << 10)
            fcntl.ioctl(file, FICLONERANGE, told)  # the extent's first part where its third was
            clone_file(live, point / "new")
        with (point / "old").open("rb") as old, (point / "new").open("rb") as new:
            maps = [extents.extents(each.fileno()) for each in (old, new)]
            places = [{int(each["logical"]): int(each["physical"]) for each in found} for found in maps]
            assert places[0][64 << 10] == places[1][64 << 10]  # the trap is there
            proven = unchanged_blocks(old.fileno(), new.fileno(), Seal.of(old.fileno()), 32 << 10)
            assert old.read(96 << 10)[64 << 10 :] != new.read(96 << 10)[64 << 10 :] and not proven[2]


def test_a_map_that_moves_while_it_is_looked_at_proves_nothing(point: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deduplication moves the older file's blocks and leaves its change time: between two looks at its map."""
    content = os.urandom(LARGEST)
    (point / "live").write_bytes(content)
    (point / "twin").write_bytes(content)
    for name in ("old", "new"):
        clone_file(point / "live", point / name)
    real, looks = extents.extents, []

    def look(descriptor: int) -> extents.Extents:
        found = real(descriptor)
        looks.append(found)
        if len(looks) == 1:
            for at in range(0, LARGEST, BLOCK):
                deduplicate(point / "twin", point / "old", at)
        return found

    with (point / "old").open("rb") as old, (point / "new").open("rb") as new:
        seal = Seal.of(old.fileno())
        assert unchanged_blocks(old.fileno(), new.fileno(), seal, BLOCK).all()
        monkeypatch.setattr(extents, "extents", look)
        assert not unchanged_blocks(old.fileno(), new.fileno(), seal, BLOCK).any()
        assert not np.array_equal(looks[0], real(old.fileno())) and Seal.of(old.fileno()) == seal
