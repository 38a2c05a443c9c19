"""Source files that are not files of the data directory: bytes the server gave us, and captured log segments."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from icecore.model import FileKind, FileMeta


class MemoryFile:
    def __init__(self, path: str, content: bytes, mtime_s: int, mode: int = 0o600) -> None:
        self.meta = FileMeta(path, FileKind.FILE, mode, mtime_s, len(content))
        self.content = content

    def open(self) -> MemoryReader:
        return MemoryReader(self.content)


class MemoryReader:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, offset: int, into: memoryview) -> int:
        part = self._content[offset : offset + into.nbytes]
        into[: len(part)] = part
        return len(part)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class NoContent:
    """A directory or a link: there is nothing to read."""

    def __init__(self, meta: FileMeta) -> None:
        self.meta = meta

    def open(self) -> MemoryReader:
        return MemoryReader(b"")


class SegmentFile:
    """A checked log segment in the scratch directory."""

    def __init__(self, meta: FileMeta, path: Path) -> None:
        self.meta = meta
        self._path = path

    def open(self) -> SegmentReader:
        return SegmentReader(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC), self.meta.size_bytes)


class SegmentReader:
    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self._descriptor = descriptor
        self._size_bytes = size_bytes

    def read(self, offset: int, into: memoryview) -> int:
        wanted = into[: max(min(into.nbytes, self._size_bytes - offset), 0)]
        count = 0
        while count < wanted.nbytes:
            part = os.preadv(self._descriptor, [wanted[count:]], offset + count)
            if part == 0:
                break
            count += part
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
