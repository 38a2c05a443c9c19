"""pg_control, log positions and segments, without a server."""

from __future__ import annotations

import struct

import pytest

from icecore.engines.postgresql.control import (
    CRC_OFFSETS,
    DEAD_CHECKPOINT,
    crc32c,
    guarded,
    lsn_number,
    lsn_text,
    parse,
    read_whole,
)
from icecore.engines.postgresql.wal import PAGE_MAGIC, check_segment, segment_name, segment_positions
from icecore.errors import Damaged

SEGMENT = 1024 * 1024


def control(version: int = 1300, redo: int = 0x3000028) -> bytes:
    content = bytearray(8192)
    struct.pack_into("<QII", content, 0, 7711772796105673774, version, 202209061)
    struct.pack_into("<QQI", content, 32, redo + 0x38, redo, 17)
    struct.pack_into("<q", content, 104, 1795537024)
    struct.pack_into("<QI", content, 136, 0x1_0000_0000, 17)
    offset = CRC_OFFSETS[version]
    struct.pack_into("<I", content, offset, crc32c(bytes(content[:offset])))
    return bytes(content)


def test_crc32c_gives_the_published_value() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, appendix B.4 uses this polynomial


def test_lsn_both_ways() -> None:
    for text in ("0/0", "0/3000028", "1A/FFFFFFFF", "FFFFFFFF/1"):
        assert lsn_text(lsn_number(text)) == text


@pytest.mark.parametrize("version", sorted(CRC_OFFSETS))
def test_a_control_file_is_read(version: int) -> None:
    known = parse(control(version))
    assert (known.system_identifier, known.timeline) == (7711772796105673774, 17)
    assert (known.redo, known.checkpoint) == (0x3000028, 0x3000060)
    assert (known.checkpoint_at, known.minimum_recovery_point) == (1795537024, 0x1_0000_0000)


def test_every_flipped_byte_before_the_checksum_is_noticed() -> None:
    content = control()
    for at in range(CRC_OFFSETS[1300] + 4):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        with pytest.raises(Damaged):
            parse(bytes(damaged))


def test_a_cut_or_foreign_file_is_refused() -> None:
    with pytest.raises(Damaged, match="100 bytes"):
        parse(control()[:100])
    unknown = bytearray(control())
    struct.pack_into("<I", unknown, 8, 9999)
    with pytest.raises(Damaged, match="9999"):
        parse(bytes(unknown))


def test_a_torn_read_is_read_again() -> None:
    answers = [b"torn" * 200, control()[:300] + b"x" * 7892, control()]
    answers[1] = control()[:40] + b"\xff" * 8 + control()[48:]
    assert read_whole(lambda: answers.pop(0), pause_s=0) == control()
    with pytest.raises(Damaged):
        read_whole(lambda: b"torn" * 200, attempts=3, pause_s=0)


@pytest.mark.parametrize("version", sorted(CRC_OFFSETS))
def test_the_guarded_file_is_valid_and_leads_nowhere(version: int) -> None:
    changed = guarded(control(version))
    assert parse(changed).checkpoint == DEAD_CHECKPOINT
    assert parse(changed).redo == parse(control(version)).redo
    assert len(changed) == 8192
    with pytest.raises(Damaged):
        guarded(control(version)[:-1] and b"\0" * 8192)


# ---------------------------------------------------------------- segments


def test_names_are_hexadecimal_throughout() -> None:
    megabytes = 16 * 1024 * 1024
    assert segment_name(lsn_number("0/3000028"), 1, megabytes) == "000000010000000000000003"
    assert segment_name(lsn_number("1/FF000000"), 0x1A, megabytes) == "0000001A00000001000000FF"
    assert segment_name(lsn_number("2/0"), 1, megabytes) == "000000010000000200000000"
    assert segment_name(lsn_number("2/40000000"), 1, 1024**3) == "000000010000000200000001"


def test_the_stop_position_is_exclusive() -> None:
    assert list(segment_positions(SEGMENT + 5, 2 * SEGMENT, SEGMENT)) == [SEGMENT]
    assert list(segment_positions(SEGMENT + 5, 2 * SEGMENT + 1, SEGMENT)) == [SEGMENT, 2 * SEGMENT]
    assert list(segment_positions(SEGMENT, SEGMENT, SEGMENT)) == [SEGMENT]


def segment(position: int = SEGMENT, *, timeline: int = 3, system: int = 77, major: str = "15") -> bytearray:
    content = bytearray(SEGMENT)
    for offset in range(0, SEGMENT, 8192):
        struct.pack_into("<HHIQ", content, offset, PAGE_MAGIC[major], 0, timeline, position + offset)
    struct.pack_into("<HHIQI4xQII", content, 0, PAGE_MAGIC[major], 2, timeline, position, 0, system, SEGMENT, 8192)
    return content


def check(content: bytes | bytearray, **more: object) -> None:
    wanted: dict[str, object] = {"position": SEGMENT, "stop": 2 * SEGMENT, "major": "15", "timeline": 3}
    wanted |= {"system_identifier": 77, "segment_bytes": SEGMENT, **more}
    check_segment(memoryview(content), **wanted)  # type: ignore[arg-type]


def test_a_right_segment_passes() -> None:
    check(segment())
    check(segment(timeline=2))  # the first segment after a promotion begins as a copy of the ancestor's


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"major": "16"}, "not one of PostgreSQL 16"),
        ({"timeline": 2}, "timeline 3"),
        ({"system_identifier": 78}, "belongs to system 77"),
        ({"position": 2 * SEGMENT}, "position"),
        ({"segment_bytes": 2 * SEGMENT}, "instead of"),
        ({"page_bytes": 4096}, "pages of 8192"),
    ],
)
def test_another_servers_segment_is_refused(wanted: dict[str, object], message: str) -> None:
    with pytest.raises(Damaged, match=message):
        check(segment(), **wanted)


def test_a_hole_is_found_and_a_switched_segment_is_not_one() -> None:
    content = segment()
    content[8192 * 5 :] = bytes(SEGMENT - 8192 * 5)  # after a switch the rest may be zero
    check(content)
    with pytest.raises(Damaged, match="page 5"):
        check(content, stop=SEGMENT + 8192 * 6)  # the end lies behind the hole
    content[8192 * 20] = 1
    with pytest.raises(Damaged, match="page 5"):
        check(content)  # a hole, not an end
    content = segment()
    struct.pack_into("<Q", content, 8192 * 9 + 8, 12345)
    with pytest.raises(Damaged, match="page 9"):
        check(content)
    check(content, stop=SEGMENT + 8192 * 9)  # behind the end nothing is promised
