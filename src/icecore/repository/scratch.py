"""What would not fit into memory and need not outlive the process: a file without a name, on a disk.

``TMPDIR`` where it is set, else ``/var/tmp``: ``/tmp`` may itself be memory.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icecore.errors import StorageFailed, StorageFull
from icecore.storage import Buffer

PLACE = Path("/var/tmp")
WRITE_AT_ONCE = 1 << 20
JOINED_GAP = 8  # records read along with those asked for, where that spares a call


def place() -> Path:
    usable = "TMPDIR" not in os.environ and os.access(PLACE, os.W_OK | os.X_OK)
    return PLACE if usable else Path(tempfile.gettempdir())


class Scratch:
    """Bytes that are appended and read again. It is gone with the object, also after ``kill -9``. Reading is safe for
    threads beside one that appends. ``StorageFull`` and ``StorageFailed`` name where it lies."""

    def __init__(self) -> None:
        self._folder = place()
        self._file: Any = None  # made when first needed; closes itself when nobody refers to it any more
        self._tail = bytearray()
        self._written_bytes = 0

    def __len__(self) -> int:
        return self._written_bytes + len(self._tail)

    def append(self, data: Buffer) -> None:
        self._tail += data
        if len(self._tail) >= WRITE_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """From now on what was appended can be read."""
        if not self._tail:
            return
        with self._told("write"):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - see above
            view = memoryview(bytes(self._tail))
            while view:
                written = os.pwrite(self._file.fileno(), view, self._written_bytes)
                view, self._written_bytes = view[written:], self._written_bytes + written
        self._tail = bytearray()

    def read(self, at: int, count: int) -> bytes:
        """``count`` bytes, all of them flushed."""
        with self._told("read"):
            data = os.pread(self._file.fileno(), count, at)
            while len(data) < count:
                more = os.pread(self._file.fileno(), count - len(data), at + len(data))
                if not more:
                    raise OSError(errno.EIO, "it is cut short")
                data += more
        return data

    def records(self, rows: NDArray[np.int64], kind: np.dtype[np.void]) -> NDArray[np.void]:
        """Those of a file of equally long records, in the order of ``rows``; neighbours are read together."""
        found = np.empty(len(rows), kind)
        if not len(rows):
            return found
        order = np.argsort(rows, kind="stable")
        sorted_rows = rows[order]
        ends = np.flatnonzero(np.diff(sorted_rows) > JOINED_GAP) + 1
        for first, behind in zip((0, *ends.tolist()), (*ends.tolist(), len(rows)), strict=True):
            low, high = int(sorted_rows[first]), int(sorted_rows[behind - 1]) + 1
            read = np.frombuffer(self.read(low * kind.itemsize, (high - low) * kind.itemsize), kind)
            found[order[first:behind]] = read[sorted_rows[first:behind] - low]
        return found

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            family = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
            name = f"a scratch file in {self._folder}"
            raise family(doing=doing, name=name, reason=str(error.strerror)) from error
