"""The continuous log of a cluster, in units beside its backups.

::

    header    64   magic "ICELOGU1", repository id 16, salt 32, zeros 8
    lengths   16   sealed facts u32, zeros 12
    facts     …    sealed at position 0: what the unit holds, and its parts, as JSON
    parts     …    part i sealed at position i + 1; each a block's payload of at most 1 MiB

A unit's name says what it covers: timeline, first position, position after the last, the moment up to which it is
known that nothing is missing, and the hash of its bytes. So a listing alone tells what can be restored; all but the
hash is bound into each part. Units may overlap: a merged one says the same as those it was made of. The log has a
lease of its own and needs none of the block writer's; collection does not look at it.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from blake3 import blake3

from icecore.errors import Damaged, ObjectExists, StorageFailed
from icecore.model import LogUnit
from icecore.repository.blocks import BLOCK_ID_BYTES, BlockCodec
from icecore.repository.layout import ClusterLayout, below
from icecore.repository.pack import HEADER_BYTES, block_bound, object_header, read_header
from icecore.repository.reader import get_whole
from icecore.repository.sealing import TAG_BYTES, Keyring
from icecore.storage import Buffer, Lease, Storage, StoredObject

LOG_MAGIC = b"ICELOGU1"
PART_BYTES = 1 << 20
STRIDE_BYTES = 16 << 20  # what merged units cover at most, from a multiple of it on
MAX_UNIT_BYTES = 32 << 20  # of a stored unit
_LENGTHS = struct.Struct("<I12x")


@dataclass(frozen=True)
class LogListing:
    """What is there, by name alone."""

    units: tuple[LogUnit, ...]  # by timeline and first position
    histories: Mapping[int, str]  # timeline -> object name


def list_log(storage: Storage, layout: ClusterLayout) -> LogListing:
    units, histories = [], {}
    for last, found in below(storage, layout.log):
        fields = last.split("-")
        try:
            if len(fields) == 3 and fields[1] == "history":
                histories[int(fields[0], 16)] = found.name
            elif len(fields) == 5:
                units.append(_unit(fields, found))
        except ValueError:
            continue  # nothing of ours
    return LogListing(tuple(sorted(units, key=lambda unit: (unit.timeline, unit.start, unit.end))), histories)


def _unit(fields: Sequence[str], found: StoredObject) -> LogUnit:
    timeline, start, end, known_at_us = (int(field, 16) for field in fields[:4])
    if end < start:
        raise ValueError(found.name)
    return LogUnit(timeline, start, end, known_at_us, found.name, found.size_bytes)


def cover(units: Sequence[LogUnit], timeline: int, start: int, end: int) -> list[tuple[LogUnit, int, int]]:
    """Units that together hold ``[start, end)``, each with the range to take from it; ``Damaged`` if a part is in none.
    ``units`` in a listing's order."""
    pieces = []
    best: LogUnit | None = None
    at = start
    for unit in (each for each in units if each.timeline == timeline):
        if at >= end:
            break
        if unit.start > at:
            if best is None or best.end <= at:
                break
            pieces.append((best, at, min(best.end, end)))
            at = min(best.end, end)
        if unit.start <= at and (best is None or unit.end > best.end):
            best = unit
    if at < end and best is not None and best.start <= at < best.end:
        pieces.append((best, at, min(best.end, end)))
        at = min(best.end, end)
    if at < end:
        raise Damaged(name=f"the log of timeline {timeline}", reason=f"it has nothing at position {at:X}")
    return pieces


class Log:
    """Reading. Every byte is proven (R5). Safe for threads."""

    def __init__(self, storage: Storage, keyring: Keyring, codec: BlockCodec, layout: ClusterLayout) -> None:
        self._storage, self._keyring, self._codec, self._layout = storage, keyring, codec, layout
        self._listing: LogListing | None = None

    @property
    def listing(self) -> LogListing:
        if self._listing is None:
            self._listing = list_log(self._storage, self._layout)
        return self._listing

    def facts(self, unit: LogUnit) -> dict[str, Any]:
        """What was sealed into the unit beside the log."""
        return self._open(unit.name, unit.size_bytes)[0]

    def read(self, timeline: int, start: int, end: int) -> Iterator[bytes]:
        """The log from ``start`` up to the byte before ``end``, in pieces of at most 1 MiB. Units that were merged
        since they were listed are looked for again."""
        at = start
        while at < end:
            before = at
            try:
                for piece in self._read(timeline, at, end):
                    yield piece
                    at += len(piece)
            except Damaged:
                units = self.listing.units
                self._listing = None
                if at == before and self.listing.units == units:
                    raise

    def _read(self, timeline: int, start: int, end: int) -> Iterator[bytes]:
        for unit, first, behind in cover(self.listing.units, timeline, start, end):
            _, parts = self._open(unit.name, unit.size_bytes)
            at = unit.start
            for data in parts:
                piece = data[max(first - at, 0) : max(behind - at, 0)]
                if piece:
                    yield piece
                at += len(data)
            if at != unit.end:
                raise Damaged(name=unit.name, reason="it does not hold what its name says")

    def history(self, timeline: int) -> bytes:
        """The timeline's history file; ``Damaged`` if it is not here."""
        name = self.listing.histories.get(timeline)
        if name is None:
            raise Damaged(name=f"the history of timeline {timeline}", reason="it is missing")
        return b"".join(self._open(name, self._storage.size_bytes(name))[1])

    def check(self, share: float = 1.0) -> tuple[int, list[Damaged]]:
        """Read and decode the units, or a share of them drawn anew: bytes read, and what is damaged."""
        read_bytes, damaged = 0, []
        for unit in self.listing.units:
            if random.random() >= share:
                continue
            try:
                length = sum(len(part) for part in self._open(unit.name, unit.size_bytes)[1])
                if length != unit.end - unit.start:
                    raise Damaged(name=unit.name, reason="it does not hold what its name says")
            except Damaged as error:
                damaged.append(error)
            read_bytes += unit.size_bytes
        return read_bytes, damaged

    def _open(self, name: str, size_bytes: int) -> tuple[dict[str, Any], Iterator[bytes]]:
        data = get_whole(self._storage, name, size_bytes, MAX_UNIT_BYTES)
        if blake3(data).hexdigest() != name.rpartition("-")[2]:
            raise Damaged(name=name, reason="its bytes have another hash than its name")
        return open_unit(data, self._keyring, self._codec, self._layout.cluster_id, name)


class LogWriter:
    """The one archiver of a cluster while its lease is held."""

    def __init__(
        self, storage: Storage, keyring: Keyring, codec: BlockCodec, layout: ClusterLayout, lease: Lease
    ) -> None:
        self._storage, self._keyring, self._codec, self._layout, self._lease = storage, keyring, codec, layout, lease
        self.reader = Log(storage, keyring, codec, layout)
        self.epoch = lease.epoch

    def append(self, timeline: int, start: int, data: Buffer, known_at_us: int, facts: Mapping[str, Any]) -> LogUnit:
        """Store ``data`` as the log from ``start`` on; durable when this returns. Without data it is a mark: the log
        had not gone on at ``known_at_us``."""
        end = start + len(data)
        stem = f"{self._layout.log}{timeline:08x}-{start:016x}-{end:016x}-{known_at_us:016x}"
        name, size_bytes = self._put(stem, data, {**facts, "epoch": self.epoch})
        return LogUnit(timeline, start, end, known_at_us, name, size_bytes)

    def put_history(self, timeline: int, content: bytes) -> None:
        if timeline not in self.reader.listing.histories:
            self._put(f"{self._layout.log}{timeline:08x}-history", content, {"epoch": self.epoch})

    def merge(self, units: Sequence[LogUnit]) -> LogUnit:
        """One unit for several that follow each other; they are removed when it is durable. A crash in between leaves
        both, which say the same."""
        first, last = units[0], units[-1]
        reader = Log(self._storage, self._keyring, self._codec, self._layout)
        reader._listing = LogListing(tuple(units), {})
        data = b"".join(reader.read(first.timeline, first.start, last.end))
        facts = self._kept(reader.facts(last)) | {"scan_from": reader.facts(first).get("scan_from", first.start)}
        merged = self.append(first.timeline, first.start, data, last.known_at_us, facts)
        self.drop(unit for unit in units if unit.name != merged.name)
        return merged

    def drop(self, units: Iterable[LogUnit]) -> None:
        """Remove units that another one covers, or that nothing needs."""
        for unit in units:
            self._lease.confirm()
            self._storage.delete(unit.name)

    @staticmethod
    def _kept(facts: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in facts.items() if key not in ("ids", "stored", "plain", "epoch")}

    def _put(self, stem: str, data: Buffer, facts: Mapping[str, Any]) -> tuple[str, int]:
        # 1 sealed, and decoded once before it has a name
        parts = seal_unit(data, facts, self._keyring, self._codec, self._layout.cluster_id, stem)
        whole = b"".join(parts)
        _, opened = open_unit(whole, self._keyring, self._codec, self._layout.cluster_id, stem + "-")
        if b"".join(opened) != bytes(data):  # R7
            raise Damaged(name=stem, reason="it does not decode to what was written")
        # 2 still ours: a writer whose lease was taken over adds nothing
        self._lease.confirm()
        # 3 created, never replaced (R1); what lies under this very hash is the same bytes
        name = f"{stem}-{blake3(whole).hexdigest()}"
        try:
            self._storage.put(name, [whole])
        except ObjectExists as error:
            if self._storage.size_bytes(name) != len(whole):
                raise StorageFailed(doing="put", name=name, reason="another object has its name") from error
        return name, len(whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lease.__exit__(kind, error, trace)


# ---------------------------------------------------------------- bytes


def seal_unit(
    data: Buffer, facts: Mapping[str, Any], keyring: Keyring, codec: BlockCodec, cluster_id: str, stem: str
) -> list[Buffer]:
    """``stem``: the name without its hash."""
    header, salt = object_header(LOG_MAGIC, keyring)
    sealer = keyring.sealer("log", cluster_id, salt)
    bound = header + stem.encode()
    columns: dict[str, list[Any]] = {"ids": [], "stored": [], "plain": []}
    parts: list[Buffer] = []
    view = memoryview(data)
    for at in range(0, len(view), PART_BYTES):
        plain = view[at : at + PART_BYTES]
        block_id = codec.block_id(plain)
        payload, plain_word = codec.pack(plain)
        parts.append(sealer.seal(len(parts) + 1, payload, bound + block_bound(block_id, plain_word)))
        columns["ids"].append(block_id.hex())
        columns["stored"].append(len(parts[-1]))
        columns["plain"].append(plain_word)
    told = sealer.seal(0, json.dumps({**facts, **columns}, separators=(",", ":")).encode(), bound)
    return [header, _LENGTHS.pack(len(told)), told, *parts]


def open_unit(
    data: bytes, keyring: Keyring, codec: BlockCodec, cluster_id: str, name: str
) -> tuple[dict[str, Any], Iterator[bytes]]:
    """The facts, and the parts as they are decoded. ``name``: with its hash."""
    salt = read_header(data, LOG_MAGIC, keyring, name)
    start = HEADER_BYTES + _LENGTHS.size
    if len(data) < start:
        raise Damaged(name=name, reason="it is cut short")
    (told_bytes,) = _LENGTHS.unpack_from(data, HEADER_BYTES)
    sealer = keyring.sealer("log", cluster_id, salt)
    bound = data[:HEADER_BYTES] + name.rpartition("-")[0].encode()
    view = memoryview(data)
    plain = sealer.open(0, view[start : start + told_bytes], bound, name)
    try:
        facts: dict[str, Any] = json.loads(plain)
        columns = list(zip(facts["ids"], facts["stored"], facts["plain"], strict=True))
        ids = [bytes.fromhex(block_id) for block_id, _, _ in columns]
        if sum(int(stored) for _, stored, _ in columns) != len(data) - start - told_bytes:
            raise ValueError("lengths")
        if any(len(each) != BLOCK_ID_BYTES for each in ids) or any(stored < TAG_BYTES for _, stored, _ in columns):
            raise ValueError("entries")
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(name=name, reason="its facts are malformed") from error

    def parts() -> Iterator[bytes]:
        at = start + told_bytes
        for number, (block_id, (_, stored, plain_word)) in enumerate(zip(ids, columns, strict=True)):
            sealed = view[at : at + stored]
            payload = sealer.open(number + 1, sealed, bound + block_bound(block_id, plain_word), name)
            yield codec.unpack(payload, plain_word, block_id, name)  # R5
            at += stored

    return facts, parts()
