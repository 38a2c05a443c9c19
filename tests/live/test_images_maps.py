"""What maps say, held against the bytes themselves: never once may a changed block count as unchanged."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from filesystems import SHARING, mount, mounted, unmount
from icecore.images import clones, extents
from icecore.images.extents import Seal, unchanged_blocks

BLOCK_BYTES = 128 << 10
SIZE_BYTES = 24 << 20
SEED = int(os.environ.get("ICECORE_SEED", "20261124"))
ROUNDS = 40
PUNCH = 0x03  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
COLLAPSE, INSERT, ZERO = 0x08, 0x20, 0x10


@pytest.fixture(scope="module", params=SHARING)
def ground_(request: pytest.FixtureRequest) -> Iterator[Path]:
    with mounted(request.param, 1 << 30) as point:
        yield point


class Pair:
    """A live file and the sealed clone of an earlier moment."""

    def __init__(self, place: Path, content: bytes) -> None:
        place.mkdir()
        self.live, self.old, self.new = place / "live", place / "old", place / "new"
        self.live.write_bytes(content)
        self.again()

    def again(self) -> None:
        """The present state is the older one from now on."""
        self.old.unlink(missing_ok=True)
        clones.clone_file(self.live, self.old)
        with self.old.open("rb") as file:
            self.seal = Seal.of(file.fileno())

    def check(self) -> int:
        """Clone, compare map with bytes; how many blocks were proven unchanged."""
        self.new.unlink(missing_ok=True)
        clones.clone_file(self.live, self.new)
        with self.old.open("rb") as old, self.new.open("rb") as new:
            proven = unchanged_blocks(old.fileno(), new.fileno(), self.seal, BLOCK_BYTES)
            before, after = old.read(), new.read()
        assert len(proven) == -(-len(after) // BLOCK_BYTES)
        for number in np.flatnonzero(proven):
            at = int(number) * BLOCK_BYTES
            assert before[at : at + BLOCK_BYTES] == after[at : at + BLOCK_BYTES], f"block {number} changed"
        return int(proven.sum())


def test_random_work_on_a_file(ground_: Path) -> None:
    draw = random.Random(SEED)
    pair = Pair(ground_ / "random", draw.randbytes(SIZE_BYTES))
    assert pair.check() == SIZE_BYTES // BLOCK_BYTES  # untouched: all of it is proven
    libc, proven = ctypes.CDLL(None), 0
    for number in range(ROUNDS):
        with pair.live.open("r+b") as file:
            for _ in range(draw.randrange(1, 8)):
                size = os.fstat(file.fileno()).st_size
                at, length = draw.randrange(size), draw.choice([1, 512, 8192, 8192, 8192, 200_000])
                match draw.randrange(8):
                    case 0:
                        file.truncate(max(at, BLOCK_BYTES))
                    case 1:
                        file.truncate(size + length)
                    case 2:
                        libc.fallocate(file.fileno(), PUNCH, ctypes.c_long(at), ctypes.c_long(length))
                    case 3:
                        libc.fallocate(
                            file.fileno(),
                            draw.choice([COLLAPSE, INSERT, ZERO]),
                            ctypes.c_long(at & ~4095),
                            ctypes.c_long(8192),
                        )
                    case 4:
                        libc.fallocate(file.fileno(), 0, ctypes.c_long(size), ctypes.c_long(length))
                    case _:
                        os.pwrite(file.fileno(), draw.randbytes(length), at - at % draw.choice([1, 8192]))
        if draw.random() < 0.2:
            # replaced by another file under the same name, as VACUUM FULL's and a dropped table's successor is
            other = pair.live.with_name("other")
            other.write_bytes(draw.randbytes(draw.randrange(1, SIZE_BYTES)))
            other.rename(pair.live)
        proven += pair.check()
        if number % 3 == 0:
            pair.again()
    assert proven > ROUNDS  # the test can fail: blocks were proven


def test_freed_places_that_come_back_prove_nothing(ground_: Path) -> None:
    """The older clone is removed, its blocks are given to new content of the same name and size: the seal tells."""
    draw = random.Random(SEED)
    pair = Pair(ground_ / "freed", draw.randbytes(SIZE_BYTES))
    for _ in range(5):
        pair.live.unlink()
        pair.old.unlink()
        os.sync()
        pair.live.write_bytes(draw.randbytes(SIZE_BYTES))
        clones.clone_file(pair.live, pair.old)  # another file, perhaps of the same inode
        with pair.live.open("r+b") as file:
            os.pwrite(file.fileno(), b"new", 5)
        assert pair.check() == 0


def test_an_older_clone_that_was_touched_proves_nothing(ground_: Path) -> None:
    pair = Pair(ground_ / "touched", os.urandom(SIZE_BYTES))
    assert pair.check()
    pair.old.chmod(0o600)
    with pair.old.open("r+b") as file:
        file.write(b"x")
    os.utime(pair.old, ns=(0, 0))  # a modification time can be set, the change time cannot
    assert pair.check() == 0


def test_compressed_and_inline_files_prove_nothing_wrong(ground_: Path) -> None:
    place = ground_ / "packed"
    place.mkdir()
    subprocess.run(["chattr", "+c", str(place)], check=False, capture_output=True)  # btrfs compresses; XFS refuses
    for name, content in (("small", b"x" * 300), ("zeros", bytes(3 << 20)), ("text", b"compress me " * 300_000)):
        pair = Pair(place / name, content)
        pair.check()
        with pair.live.open("r+b") as file:
            os.pwrite(file.fileno(), b"other", 100)
        pair.check()


@pytest.mark.parametrize("kind", SHARING)
def test_maps_after_a_crash_and_a_new_mount(kind: str) -> None:
    """The machine dies between two images: what the log brought back is compared with what is proven."""
    with mounted(kind, 1 << 30) as point:
        draw = random.Random(SEED)
        pair = Pair(point / "crash", draw.randbytes(SIZE_BYTES))
        directory = os.open(point, os.O_RDONLY)
        clones.sync_file_system(directory)
        os.close(directory)
        with pair.live.open("r+b") as file:
            for _ in range(50):
                os.pwrite(file.fileno(), draw.randbytes(8192), draw.randrange(SIZE_BYTES // 8192) * 8192)
            os.fsync(file.fileno())
            for _ in range(50):
                os.pwrite(file.fileno(), draw.randbytes(8192), draw.randrange(SIZE_BYTES // 8192) * 8192)
        if kind == "xfs":
            # XFS_IOC_GOINGDOWN without flushing the log: from here on nothing reaches the disk
            descriptor = os.open(point, os.O_RDONLY)
            import fcntl

            fcntl.ioctl(descriptor, 0x8004587D, (2).to_bytes(4, "little"))
            os.close(descriptor)
        unmount(point)
        mount(point.parent / "image", point)
        with pair.old.open("rb") as file:
            now = Seal.of(file.fileno())
        pair.seal = Seal(now.device, pair.seal.inode, pair.seal.changed_ns, pair.seal.size_bytes)
        assert pair.check() > 0


def test_a_file_system_without_maps_or_clones_says_so(tmp_path: Path) -> None:
    with mounted("ext4", 64 << 20) as point:
        (point / "live").write_bytes(os.urandom(1 << 20))
        with pytest.raises(clones.CannotClone):
            clones.clone_file(point / "live", point / "clone")
        assert not (point / "clone").exists()
    reading, writing = os.pipe()
    with pytest.raises(extents.NoMap):
        extents.extents(reading)
    os.close(reading)
    os.close(writing)
