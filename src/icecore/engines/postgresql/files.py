"""Source files of a host-local session: read in pieces, each relation page checked on its way.

A page that fails is read again from the live file. Changed bytes mean that a write was in flight, and the log holds
the whole page: accepted. The same bytes again and again are damage on disk: recorded with relation and block, so that
the backup carries a warning and never a silent fault.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from icecore import directio
from icecore.engines import SourceVanished
from icecore.engines.postgresql.pages import bad_pages
from icecore.engines.postgresql.walk import NEVER_VANISH, Found
from icecore.errors import EngineFailed
from icecore.model import FileMeta

REREADS = 3
REREAD_PAUSE_S = 0.05
PATIENT_PAGES = 32  # bad pages in one file after which a re-read no longer waits first
NAMED_BLOCKS = 20  # blocks named per file in a warning


class PageFaults:
    """Damaged pages found so far, by file. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: dict[str, set[int]] = {}

    def add(self, path: str, blocks: list[int]) -> int:
        """Returns how many are known of this file."""
        with self._lock:
            known = self._blocks.setdefault(path, set())
            known.update(blocks)
            return len(known)

    def count(self, path: str) -> int:
        with self._lock:
            return len(self._blocks.get(path, ()))

    def warnings(self) -> list[str]:
        with self._lock:
            lines = []
            for path, blocks in sorted(self._blocks.items()):
                named = ", ".join(str(block) for block in sorted(blocks)[:NAMED_BLOCKS])
                more = f" and {len(blocks) - NAMED_BLOCKS} more" if len(blocks) > NAMED_BLOCKS else ""
                plural = "s" if len(blocks) > 1 else ""
                lines.append(f"{path}: page checksum does not match in block{plural} {named}{more}")
            return lines


class PageCheck:
    """How the pages of one relation file are numbered. Blocks count from the relation's start, across segments."""

    def __init__(self, faults: PageFaults, *, page_bytes: int, pages_per_segment: int) -> None:
        self.faults = faults
        self.page_bytes = page_bytes
        self.pages_per_segment = pages_per_segment


class LocalFile:
    """A file below the data directory or one of its tablespaces."""

    def __init__(self, found: Found, check: PageCheck | None, *, may_vanish: bool = True) -> None:
        """``may_vanish``: a file of a living database. A clone that is gone is no dropped table: leaving it out would
        lose one. A page that does not match in a clone is read again there: the live one may be newer than the
        backup's end."""
        self.meta: FileMeta = found.meta
        self._source, self._may_vanish = found.source, may_vanish
        self._check = check if found.relation is not None else None
        self._first_block = 0
        if found.relation is not None and check is not None:
            self._first_block = found.relation.segment * check.pages_per_segment

    @property
    def path(self) -> str:
        return str(self._source)

    def open(self) -> LocalReader:
        try:
            descriptor = os.open(self._source, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if not self._may_vanish:
                raise EngineFailed(
                    doing="reading an image", reason=f"the clone of {self.meta.path} was removed meanwhile"
                ) from None
            if Path(self._source).name in NEVER_VANISH and not _dropped_with_directory(Path(self._source)):
                raise EngineFailed(doing="reading the data directory", reason=f"{self.meta.path} vanished") from None
            raise SourceVanished(self.meta.path) from None
        except OSError as error:
            raise EngineFailed(doing=f"opening {self.meta.path}", reason=str(error.strerror)) from error
        return LocalReader(descriptor, self.meta, self._check, self._first_block)


class LocalReader:
    def __init__(self, descriptor: int, meta: FileMeta, check: PageCheck | None, first_block: int) -> None:
        self._descriptor = descriptor
        self._meta = meta
        self._check = check
        self._first_block = first_block

    def read(self, offset: int, into: memoryview) -> int:
        # 1. Never past the size that was listed; what was added since comes from the log.
        wanted = min(into.nbytes, max(self._meta.size_bytes - offset, 0))
        count = self._fill(into[:wanted], offset)
        # 2. Every whole page that was read must be as PostgreSQL wrote it. A page cut off by the end of the file is
        #    one being added right now.
        if self._check is not None and count:
            self._verify(offset, into[:count])
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def _fill(self, into: memoryview, offset: int) -> int:
        """Short only at the file's end."""
        try:
            return directio.read_at(self._descriptor, into, offset)
        except OSError as error:
            raise EngineFailed(doing=f"reading {self._meta.path}", reason=str(error.strerror)) from error

    def _verify(self, offset: int, view: memoryview) -> None:
        check = self._check
        assert check is not None
        skip = -offset % check.page_bytes
        count = max(view.nbytes - skip, 0) // check.page_bytes
        if not count:
            return
        pages = view[skip : skip + count * check.page_bytes]
        first = (offset + skip) // check.page_bytes
        suspects = bad_pages(pages, self._first_block + first, check.page_bytes)
        for _ in range(REREADS):
            if not suspects:
                return
            # A page that is known bad already in a file with many of them is not worth a pause each.
            if check.faults.count(self._meta.path) < PATIENT_PAGES:
                time.sleep(REREAD_PAUSE_S)
            suspects = [index for index in suspects if self._unchanged(pages, index, first, check.page_bytes)]
        if suspects:
            check.faults.add(self._meta.path, [self._first_block + first + index for index in suspects])

    def _unchanged(self, pages: memoryview, index: int, first: int, page_bytes: int) -> bool:
        """Whether the live file still holds the very same bytes; newer ones are taken over."""
        page = pages[index * page_bytes : (index + 1) * page_bytes]
        again = bytearray(page_bytes)
        count = self._fill(memoryview(again), (first + index) * page_bytes)
        if count < page_bytes:
            return False  # truncated since: the log knows
        if page == again:
            return True
        page[:] = again
        return False


def _dropped_with_directory(path: Path) -> bool:
    """Whether a vanished map or version file went with its whole database, which takes a moment to be removed."""
    if path.parent.name in ("global", "") or not path.parent.name.isdigit():
        return False
    for _ in range(40):
        if not path.parent.exists():
            return True
        time.sleep(0.05)
    return False
