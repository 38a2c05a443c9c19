"""A tar archive as PostgreSQL streams it: headers parsed one by one, contents passed on without a file in between.

PostgreSQL writes plain ustar: files, directories and links, sizes in octal or, from 8 GiB on, in base 256
(``src/port/tar.c``). Up to version 14 an archive simply ends; later ones end with two empty blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from icecore.errors import EngineFailed
from icecore.model import FileKind

BLOCK_BYTES = 512
_KINDS = {b"0": FileKind.FILE, b"\0": FileKind.FILE, b"5": FileKind.DIRECTORY, b"2": FileKind.SYMLINK}


@dataclass(frozen=True)
class Member:
    name: str
    kind: FileKind
    mode: int
    mtime_s: int
    size_bytes: int
    target: str


class ByteStream:
    """Pieces as they come, handed out in the sizes that are asked for."""

    def __init__(self, pull: Callable[[], memoryview | None]) -> None:
        """``pull`` gives the next piece, or nothing at the end."""
        self._pull = pull
        self._piece = memoryview(b"")

    def read_into(self, view: memoryview) -> int:
        """Fill ``view``; short only at the stream's end."""
        done = 0
        while done < view.nbytes:
            if not self._piece.nbytes:
                piece = self._pull()
                if piece is None:
                    break
                self._piece = piece
                continue
            count = min(view.nbytes - done, self._piece.nbytes)
            view[done : done + count] = self._piece[:count]
            self._piece = self._piece[count:]
            done += count
        return done

    def skip(self, size_bytes: int) -> None:
        while size_bytes > 0:
            if not self._piece.nbytes:
                piece = self._pull()
                if piece is None:
                    raise cut_short()
                self._piece = piece
                continue
            count = min(size_bytes, self._piece.nbytes)
            self._piece = self._piece[count:]
            size_bytes -= count


class Archive:
    """The members of one archive. Read or skip a member's content before asking for the next one."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._left = 0  # content of the present member not read yet
        self._padding = 0

    def members(self) -> Iterator[Member]:
        while True:
            self._stream.skip(self._left + self._padding)
            self._left = self._padding = 0
            header = bytearray(BLOCK_BYTES)
            count = self._stream.read_into(memoryview(header))
            if count == 0 or not any(header):
                return
            if count < BLOCK_BYTES:
                raise cut_short()
            member = parse_header(bytes(header))
            self._left = member.size_bytes
            self._padding = -member.size_bytes % BLOCK_BYTES
            yield member

    def read_into(self, view: memoryview) -> int:
        count = self._stream.read_into(view[: self._left])
        if count < min(view.nbytes, self._left):
            raise cut_short()
        self._left -= count
        return count


def parse_header(header: bytes) -> Member:
    if _number(header[148:156]) != sum(header[:148]) + 8 * 32 + sum(header[156:]):
        raise EngineFailed(doing="reading the backup stream", reason="a tar header's checksum does not match")
    kind = _KINDS.get(header[156:157])
    if kind is None:
        raise EngineFailed(doing="reading the backup stream", reason=f"tar type {header[156:157]!r} is unknown")
    name, prefix = _text(header[0:100]), _text(header[345:500])
    return Member(
        name=(f"{prefix}/{name}" if prefix else name).rstrip("/").removeprefix("./"),
        kind=kind,
        mode=_number(header[100:108]) & 0o7777,
        mtime_s=_number(header[136:148]),
        size_bytes=_number(header[124:136]) if kind is FileKind.FILE else 0,
        target=_text(header[157:257]) if kind is FileKind.SYMLINK else "",
    )


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b"\0 ") or b"0", 8)


def cut_short() -> EngineFailed:
    return EngineFailed(doing="reading the backup stream", reason="it ended in the middle of a file")
