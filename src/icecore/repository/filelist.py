"""The files of a backup while it is made: a list in a scratch file, so that a million of them take no memory.

::

    record   kind u8, mode u32, mtime s64, size u64, lengths of path u32, target u32 and ids u64; then these three
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

from icecore.model import FileKind, FileMeta
from icecore.repository.manifest import StoredFile
from icecore.repository.scratch import Scratch

READ_AT_ONCE, FOUND_AT_ONCE = 1 << 18, 1 << 10
_HEAD = struct.Struct("<BIqQIIQ")
_KINDS = tuple(FileKind)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_OFFSET_BITS = 40  # of a key: 1 TiB of records; the rest is of the path's hash


class FileList:
    """Appended to, then read: in order as often as one likes, or by path. For one thread at a time."""

    def __init__(self) -> None:
        self.size_bytes = 0  # of the files
        self._count = 0
        self._records = Scratch()
        self._keys: array[int] | None = None  # sorted; made by the first ``find``: 8 bytes a file

    def __len__(self) -> int:
        return self._count

    def append(self, file: StoredFile) -> None:
        meta = file.meta
        path, target = _bytes(meta.path), _bytes(meta.target)
        lengths = len(path), len(target), len(file.blocks)
        self._records.append(_HEAD.pack(_NUMBERS[meta.kind], meta.mode, meta.mtime_s, meta.size_bytes, *lengths))
        self._records.append(path + target + file.blocks)
        self._count += 1
        self.size_bytes += meta.size_bytes
        self._keys = None

    def __iter__(self) -> Iterator[StoredFile]:
        return (file for _, file in self._placed())

    def find(self, path: str) -> StoredFile | None:
        """The file of this path; the last one, if it was appended several times."""
        if self._keys is None:
            keys = array("Q", (_key(file.meta.path, at) for at, file in self._placed()))
            np.frombuffer(keys, np.uint64).sort()
            self._keys = keys
        first = _key(path, 0)
        found = None
        at = bisect_left(self._keys, first)
        while at < len(self._keys) and self._keys[at] >> _OFFSET_BITS == first >> _OFFSET_BITS:
            _, file = next(self._placed(self._keys[at] & (1 << _OFFSET_BITS) - 1, FOUND_AT_ONCE))
            found = file if file.meta.path == path else found
            at += 1
        return found

    def _placed(self, at: int = 0, at_once: int = READ_AT_ONCE) -> Iterator[tuple[int, StoredFile]]:
        """Each file from the record at ``at`` on, with where its record begins."""
        self._records.flush()
        end, window, window_at = len(self._records), b"", at

        def have(count: int) -> int:
            """Where in the window the record begins, with so much of it there."""
            nonlocal window, window_at
            if at + count > window_at + len(window):
                window, window_at = self._records.read(at, min(max(at_once, count), end - at)), at
            return at - window_at

        while at < end:
            start = have(_HEAD.size)
            number, mode, mtime_s, size_bytes, *lengths = _HEAD.unpack_from(window, start)
            start = have(_HEAD.size + sum(lengths)) + _HEAD.size
            path_end = start + lengths[0]
            target_end = path_end + lengths[1]
            path, target = _text(window[start:path_end]), _text(window[path_end:target_end])
            meta = FileMeta(path, _KINDS[number], mode, mtime_s, size_bytes, target)
            yield at, StoredFile(meta, window[target_end : target_end + lengths[2]])
            at += _HEAD.size + sum(lengths)


def _key(path: str, offset: int) -> int:
    digest = hashlib.blake2b(_bytes(path), digest_size=3).digest()
    return int.from_bytes(digest, "little") << _OFFSET_BITS | offset


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
