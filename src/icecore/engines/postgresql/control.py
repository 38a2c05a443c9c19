"""PostgreSQL's ``global/pg_control`` and log positions: parsed, checked, and made unable to start a half-done restore.

Source: ``ControlFileData`` in ``src/include/catalog/pg_control.h``; offsets were confirmed against clusters made by
13.23, 14.23, 15.18, 16.14, 17.10 and 18.4 on x86_64 (``tests/live/test_engine_versions.py`` does it again).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from icecore.errors import Damaged

CONTROL_PATH = "global/pg_control"
CONTROL_BYTES = 8192  # PG_CONTROL_FILE_SIZE; the struct stands at its head, zeroes follow
CRC_OFFSETS = {1300: 288, 1700: 288, 1800: 292}  # pg_control_version -> offset of the CRC; 1300 is PostgreSQL 13 to 16
DEAD_CHECKPOINT = 0xDEAD  # inside no segment that can exist; a server without a backup_label stops here

_HEAD = struct.Struct("<QII")  # system identifier, control version, catalog version
_CHECKPOINT = struct.Struct("<QQI")  # at 32: checkpoint record, its redo position, its timeline
_CHECKPOINT_TIME = 104  # pg_time_t inside the checkpoint's copy
_MINIMUM = struct.Struct("<QI")  # at 136: minimum recovery point and its timeline (standbys)


@dataclass(frozen=True)
class ControlFile:
    system_identifier: int
    control_version: int
    catalog_version: int
    checkpoint: int  # log positions as integers
    redo: int
    timeline: int
    checkpoint_at: int
    minimum_recovery_point: int  # 0 unless the file comes from a server in recovery


def lsn_text(position: int) -> str:
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def switch_points(history: bytes) -> tuple[tuple[int, int], ...]:
    """Of a timeline's history file: its ancestors, oldest first, each with the position where it was left."""
    fields = (line.split() for line in history.decode("utf-8", "replace").splitlines())
    return tuple((int(each[0]), lsn_number(each[1])) for each in fields if len(each) > 1 and each[0].isdigit())


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC, as PostgreSQL computes it. For a few hundred bytes: it is plain Python."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def parse(content: bytes) -> ControlFile:
    """``Damaged`` when it is cut, torn, or of a version not known here."""
    if len(content) < 512:
        raise Damaged(name=CONTROL_PATH, reason=f"it has {len(content)} bytes")
    system_identifier, control_version, catalog_version = _HEAD.unpack_from(content, 0)
    crc_offset = CRC_OFFSETS.get(control_version)
    if crc_offset is None:
        raise Damaged(name=CONTROL_PATH, reason=f"control file version {control_version} is unknown")
    (stored,) = struct.unpack_from("<I", content, crc_offset)
    if stored != crc32c(content[:crc_offset]):
        raise Damaged(name=CONTROL_PATH, reason="its checksum does not match")
    checkpoint, redo, timeline = _CHECKPOINT.unpack_from(content, 32)
    (checkpoint_at,) = struct.unpack_from("<q", content, _CHECKPOINT_TIME)
    minimum, _ = _MINIMUM.unpack_from(content, 136)
    return ControlFile(
        system_identifier, control_version, catalog_version, checkpoint, redo, timeline, checkpoint_at, minimum
    )


def read_whole(read: Callable[[], bytes], attempts: int = 20, pause_s: float = 0.05) -> bytes:
    """The file as one consistent state: the server rewrites it in place, so a torn read is read again."""
    for attempt in range(attempts):
        content = read()
        try:
            parse(content)
        except Damaged:
            if attempt == attempts - 1:
                raise
            time.sleep(pause_s)
        else:
            return content
    raise AssertionError("attempts must be positive")


def read_control(data_directory: Path) -> bytes:
    """Checked bytes of a data directory's control file. ``OSError``, ``Damaged``."""
    return read_whole((data_directory / CONTROL_PATH).read_bytes)


def guarded(content: bytes) -> bytes:
    """The same control file with a checkpoint that leads nowhere and a right checksum.

    With its ``backup_label`` the server takes the checkpoint from the label and never looks at this one. Without
    (a label lost, a restore cut short) it refuses to start instead of recovering from the wrong place.
    """
    known = parse(content)
    crc_offset = CRC_OFFSETS[known.control_version]
    changed = bytearray(content)
    struct.pack_into("<Q", changed, 32, DEAD_CHECKPOINT)
    struct.pack_into("<I", changed, crc_offset, crc32c(bytes(changed[:crc_offset])))
    return bytes(changed)
