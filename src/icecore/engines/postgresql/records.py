"""Following the log record by record: where records begin, and when transactions committed. Pure.

Why commit records and not the walsender's clock: a keepalive says what was sent, not what there is, and a client whose
commit is asynchronous is answered before its log is flushed. The time in a commit record was taken before the record
got its place in the log; so whoever was answered before that time lies before that record. Nothing else is decoded.

Layouts: ``XLogRecord`` and ``XLogPageHeaderData`` of src/include/access, ``xl_xact_commit`` of xact.h; 13 to 18 alike.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from icecore.engines.postgresql.control import lsn_text
from icecore.engines.postgresql.wal import PAGE_MAGIC
from icecore.errors import Damaged

EPOCH_2000_US = 946_684_800_000_000
_PAGE = struct.Struct("<HHIQI")  # magic, flags, timeline, address, bytes that are left of a record begun before
_TIME = struct.Struct("<q")
_LONG_BYTES, _SHORT_BYTES = 40, 24
_CONTINUED = 0x0001
_RECORD_BYTES = 24  # total u32, xid u32, previous u64, info u8, manager u8, zeros 2, CRC u32
_HEAD_BYTES = _RECORD_BYTES + 3 + 5 + 5 + 8  # as far as a commit's time: origin, top-level xid, length, time
_XLOG, _XACT = 0, 1  # resource managers
_SWITCH = 0x40
_COMMIT, _COMMIT_PREPARED, _XACT_KIND = 0x00, 0x30, 0x70
_ORIGIN, _TOP_XID, _LONG_DATA, _SHORT_DATA = 253, 252, 254, 255


@dataclass(frozen=True, slots=True)
class Commit:
    position: int  # where its record begins
    at_us: int  # Unix time


class Records:
    """Takes the log in pieces of any length from a page's start on."""

    def __init__(self, position: int, *, major: str, segment_bytes: int, page_bytes: int) -> None:
        if position % page_bytes:
            raise ValueError(f"{lsn_text(position)} does not begin a page")
        self.position = position  # of the next byte to be looked at
        self.last_record = 0  # where the last whole record begins
        self.last_end = 0  # and the position after it
        self.commits: list[Commit] = []  # taken away by the caller
        self._magic, self._segment_bytes, self._page_bytes = PAGE_MAGIC[major], segment_bytes, page_bytes
        self._rest = b""
        self._left = -1  # bytes of the record at hand that are to come; -1: no page was seen yet
        self._head: bytearray | None = None  # its first bytes; None: it began before us
        self._begun = 0
        self._skipping = False  # after a switch, up to the segment's end

    def feed(self, data: bytes | memoryview) -> None:
        view = memoryview(self._rest + bytes(data) if self._rest else bytes(data))
        # Records and page headers begin at multiples of 8: less than that decides nothing
        count = len(view) - (self.position + len(view)) % 8
        at = 0
        while at < count:
            inside = self.position % self._page_bytes
            if inside == 0:
                size = _LONG_BYTES if self.position % self._segment_bytes == 0 else _SHORT_BYTES
                if count - at < size:
                    break
                self._page(view, at)
            else:
                size = min(count - at, self._page_bytes - inside)
                self._payload(view, at, at + size)
            at += size
            self.position += size
        self._rest = bytes(view[max(at, 0) :])

    def latest_commit_us(self) -> int:
        """Of the commits since the last call; 0 if there was none."""
        latest = max((commit.at_us for commit in self.commits), default=0)
        self.commits.clear()
        return latest

    def _page(self, view: memoryview, at: int) -> None:
        magic, flags, _, address, left = _PAGE.unpack_from(view, at)
        if self.position % self._segment_bytes == 0:
            self._skipping = False
        if self._skipping:
            return
        if magic != self._magic or address != self.position:
            raise Damaged(name="the log", reason=f"its page at {lsn_text(self.position)} says {lsn_text(address)}")
        if flags & _CONTINUED:
            if self._left <= 0:
                self._left, self._head = _aligned(left), None
        else:
            # A record that a crash cut off is not continued; what follows was written after recovery
            self._left, self._head = 0, None

    def _payload(self, view: memoryview, at: int, end: int) -> None:
        first = at
        while at < end and not self._skipping:
            if self._left <= 0:
                total = int.from_bytes(view[at : at + 4], "little")
                if total == 0:
                    self._skipping = True
                    return
                if total < _RECORD_BYTES:
                    where = lsn_text(self.position + at - first)
                    raise Damaged(name="the log", reason=f"its record at {where} has {total} bytes")
                self._left, self._begun, self._head = _aligned(total), self.position + at - first, bytearray()
            take = min(self._left, end - at)
            if self._head is not None and len(self._head) < _HEAD_BYTES:
                self._head += view[at : at + min(take, _HEAD_BYTES - len(self._head))]
            self._left -= take
            at += take
            if self._left == 0 and self._head is not None:
                self._whole(self._head, self.position + at - first)

    def _whole(self, head: bytearray, end: int) -> None:
        self.last_record, self.last_end = self._begun, end
        info, manager = head[16], head[17]
        if manager == _XACT and info & _XACT_KIND in (_COMMIT, _COMMIT_PREPARED):
            self.commits.append(Commit(self._begun, _commit_time(head) + EPOCH_2000_US))
        elif manager == _XLOG and info & 0xF0 == _SWITCH:
            self._skipping = True


def _aligned(count: int) -> int:
    return (count + 7) & ~7


def _commit_time(head: bytearray) -> int:
    """The first field of the record's own data, after what may stand before it."""
    at = _RECORD_BYTES
    while True:
        kind = head[at]
        if kind == _ORIGIN:
            at += 3
        elif kind == _TOP_XID:
            at += 5
        elif kind == _SHORT_DATA:
            return int(_TIME.unpack_from(head, at + 2)[0])
        elif kind == _LONG_DATA:
            return int(_TIME.unpack_from(head, at + 5)[0])
        else:
            raise Damaged(name="the log", reason=f"a commit record has a part of kind {kind}")
