"""The tar reader of the streamed route, against Python's own tar writer and in every cut of the stream."""

from __future__ import annotations

import io
import random
import tarfile

import pytest

from icecore.engines.postgresql.tarstream import Archive, ByteStream, parse_header
from icecore.errors import EngineFailed
from icecore.model import FileKind


def archive(*, ended: bool = True) -> tuple[bytes, dict[str, bytes]]:
    contents = {"PG_VERSION": b"15\n", "base/1/1259": random.Random(1).randbytes(20_000), "empty": b""}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as made:
        folder = tarfile.TarInfo("./base/")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        made.addfile(folder)
        link = tarfile.TarInfo("pg_tblspc/16384")
        link.type, link.linkname = tarfile.SYMTYPE, "/srv/side"
        made.addfile(link)
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(content), 0o600, 1795537000
            made.addfile(info, io.BytesIO(content))
    content = out.getvalue()
    return (content if ended else content.rstrip(b"\0") + bytes(-len(content.rstrip(b"\0")) % 512)), contents


def stream_of(content: bytes, piece_bytes: int) -> ByteStream:
    pieces = [memoryview(content)[at : at + piece_bytes] for at in range(0, len(content), piece_bytes)]
    return ByteStream(lambda: pieces.pop(0) if pieces else None)


@pytest.mark.parametrize("piece_bytes", [1, 511, 512, 8192, 10**6])
@pytest.mark.parametrize("ended", [True, False])
def test_members_come_out_as_they_went_in(piece_bytes: int, ended: bool) -> None:
    content, wanted = archive(ended=ended)
    subject = Archive(stream_of(content, piece_bytes))
    found, kinds = {}, {}
    for member in subject.members():
        kinds[member.name] = member.kind
        if member.kind is FileKind.FILE:
            buffer = bytearray(member.size_bytes + 50)
            count = subject.read_into(memoryview(buffer)[:100])
            count += subject.read_into(memoryview(buffer)[count:])
            assert count == member.size_bytes and member.mode == 0o600 and member.mtime_s == 1795537000
            found[member.name] = bytes(buffer[:count])
        elif member.kind is FileKind.SYMLINK:
            assert member.target == "/srv/side"
    assert found == wanted
    assert kinds["base"] is FileKind.DIRECTORY and kinds["pg_tblspc/16384"] is FileKind.SYMLINK


def test_content_that_nobody_reads_is_skipped() -> None:
    content, wanted = archive()
    assert {member.name for member in Archive(stream_of(content, 700)).members()} >= wanted.keys()


def test_a_stream_that_breaks_off_is_an_error() -> None:
    content, _ = archive()
    for length in (100, 512 + 100, 3000, 12_000):

        def consume(cut: bytes) -> None:
            subject = Archive(stream_of(cut, 333))
            for member in subject.members():
                subject.read_into(memoryview(bytearray(member.size_bytes)))

        with pytest.raises(EngineFailed, match="middle of a file"):
            consume(content[:length])


def test_sizes_from_eight_gigabytes_on() -> None:
    info = tarfile.TarInfo("base/1/big")
    info.size = 9 * 1024**3 + 7
    header = info.tobuf(tarfile.GNU_FORMAT)[:512]
    assert parse_header(header).size_bytes == info.size


def test_a_damaged_header_is_an_error() -> None:
    content, _ = archive()
    damaged = bytearray(content[:512])
    damaged[3] ^= 1
    with pytest.raises(EngineFailed, match="checksum"):
        parse_header(bytes(damaged))
