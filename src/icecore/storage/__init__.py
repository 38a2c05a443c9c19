"""The contract of storage: dumb named bytes that survive a power cut once they were said to.

``storage`` knows nothing of blocks, packs or keys. Names are relative, ``/``-separated, made of
``[a-z0-9._-]`` segments. One suite, ``tests/contract/storage.py``, is run by every implementation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

Buffer = bytes | bytearray | memoryview

_SEGMENT = re.compile(r"[a-z0-9._-]{1,255}")


def valid_segment(segment: str) -> bool:
    """Whether ``segment`` may stand between two ``/`` of a name; ``.`` and ``..`` may not."""
    return _SEGMENT.fullmatch(segment) is not None and segment.strip(".") != ""


@dataclass(frozen=True, slots=True)
class StoredObject:
    name: str
    size_bytes: int


class Lease(Protocol):
    """Exclusive ownership of a name while held. ``epoch`` grows with each holder and fences a stale one."""

    epoch: int

    def confirm(self) -> None:
        """Raise ``LeaseHeld`` if the ownership was lost since (a newer epoch exists)."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Storage(Protocol):
    """Every method may raise ``StorageFailed`` (or ``StorageFull``) with the cause kept; safe for threads."""

    def put(self, name: str, parts: Sequence[Buffer], *, durable: bool = True) -> None:
        """Create ``name`` with the concatenated ``parts``, whole or not at all.

        Raises ``ObjectExists`` if the name is taken: nothing is ever overwritten (R1). With
        ``durable=False`` the object may be lost in a power cut until ``barrier`` returned.
        """

    def replace(self, name: str, data: Buffer) -> None:
        """Atomically and durably set ``name`` to ``data``. Only for the one small key object."""

    def barrier(self) -> None:
        """Return when all that this instance put before is durable."""

    def get(self, name: str) -> bytes:
        """The whole object; ``ObjectMissing`` if there is none."""

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """For each ``(offset, length)`` exactly these bytes of one object; ``Damaged`` if it is too short."""

    def size_bytes(self, name: str) -> int:
        """``ObjectMissing`` if there is none."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Objects below ``prefix`` (ends with ``/`` or is empty), in name order. An unreadable directory
        raises; it never looks empty (R6)."""

    def folders(self, prefix: str) -> Iterator[str]:
        """The segments that follow ``prefix`` in longer names, each once, in order. One whose objects are all
        deleted may still be there. An unreadable directory raises (R6)."""

    def delete(self, name: str) -> None:
        """Remove durably; nothing happens if it is absent."""

    def lease(self, name: str) -> Lease:
        """Take exclusive ownership of ``name`` or raise ``LeaseHeld`` at once."""
