"""What the files of an image were when they were made: one file beside the image, columns without names.

::

    head      28   magic "ICESEAL2", device u64, files u64, length of the job's UUID u32; then the UUID
    columns   32·n    path u64, inode u64, changed in nanoseconds i64, size i64; sorted by the first
    digest    16   BLAKE2b of all before

A path is its hash's first eight bytes: a seal is compared with the file that is found under the path, so that another
path with this hash could only fail to equal it. 32 bytes a file, also in memory. A file that is malformed in any way,
or of an earlier format (JSON), vouches for nothing: every block is read then, as without an image.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from bisect import bisect_left

import numpy as np

from icecore.images.extents import Seal

MAGIC = b"ICESEAL2"
DIGEST_BYTES = 16
_HEAD = struct.Struct("<8sQQI")
_KINDS = (np.dtype("<u8"), np.dtype("<u8"), np.dtype("<i8"), np.dtype("<i8"))


def path_hash(path: str) -> int:
    digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class NewSeals:
    """Seals that are being gathered, all of one device."""

    def __init__(self) -> None:
        self._columns = (array("Q"), array("Q"), array("q"), array("q"))

    def add(self, path: str, seal: Seal) -> None:
        row = (path_hash(path), seal.inode, seal.changed_ns, seal.size_bytes)
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)

    def encoded(self, device: int, job_uuid: str) -> list[bytes]:
        """The file, in parts."""
        job = job_uuid.encode()
        parts = [_HEAD.pack(MAGIC, device, len(self._columns[0]), len(job)) + job]
        order = np.argsort(np.frombuffer(self._columns[0], np.uint64), kind="stable")
        for column, kind in zip(self._columns, _KINDS, strict=True):
            parts.append(np.frombuffer(column, column.typecode)[order].astype(kind, copy=False).tobytes())
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for part in parts:
            digest.update(part)
        return [*parts, digest.digest()]


class Seals:
    """Those of a finished image, as its file has them. ``ValueError`` where it is malformed."""

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEAD.size + DIGEST_BYTES:
            raise ValueError("it is cut short")
        magic, self.device, self._count, job_bytes = _HEAD.unpack_from(data)
        at = _HEAD.size + job_bytes
        view = memoryview(data)
        if magic != MAGIC or at + 32 * self._count + DIGEST_BYTES != len(data):
            raise ValueError("it is no such file, or of another length")
        if hashlib.blake2b(view[:-DIGEST_BYTES], digest_size=DIGEST_BYTES).digest() != view[-DIGEST_BYTES:]:
            raise ValueError("its bytes were changed")
        self.job_uuid = str(data[_HEAD.size : at], "utf-8")
        columns = []
        for kind in _KINDS:
            columns.append(np.frombuffer(data, kind, self._count, at).astype(kind.newbyteorder("=")).data)
            at += 8 * self._count
        self._paths, self._inodes, self._changed, self._sizes = columns

    def __len__(self) -> int:
        return int(self._count)

    def find(self, path: str) -> Seal | None:
        wanted = path_hash(path)
        row = bisect_left(self._paths, wanted)
        if row == self._count or self._paths[row] != wanted:
            return None
        # with another device number, after another mount, no file equals its seal
        return Seal(self.device, self._inodes[row], self._changed[row], self._sizes[row])
