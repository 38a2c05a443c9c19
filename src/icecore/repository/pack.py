"""Packs: many sealed blocks in one object, with a table at its end that makes it readable alone.

::

    header    64   magic "ICEPACK1", repository id 16, salt 32, zeros 8
    blocks    …    sealed payloads, one after the other; block i is sealed at position i
    table     40·n + 16   sealed at position TABLE_POSITION: ids 32·n, stored lengths u32·n, plain words u32·n
    trailer   16   n u32, zeros 4, magic "ICEPEND1"

The table is bound to header, trailer and total size, so every byte of a pack is covered by a tag.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from blake3 import blake3

from icecore.errors import Damaged
from icecore.repository.blocks import BLOCK_ID_BYTES, COMPRESSED, MAX_PLAIN_BYTES, BlockCodec
from icecore.repository.sealing import ID_BYTES, SALT_BYTES, TAG_BYTES, Keyring, Sealer
from icecore.storage import Buffer

HEADER_BYTES = 64
TRAILER_BYTES = 16
ENTRY_BYTES = BLOCK_ID_BYTES + 4 + 4
PACK_MAGIC, PACK_END = b"ICEPACK1", b"ICEPEND1"
TABLE_POSITION = 1 << 32  # past every block's
DEFAULT_PACK_BYTES = 32 << 20
MAX_PACK_BYTES = 64 << 20
MAX_ENTRIES = 16_384

_HEADER = struct.Struct(f"<8s{ID_BYTES}s{SALT_BYTES}s8x")
_TRAILER = struct.Struct("<I4x8s")


def column_bytes(values: array[int]) -> bytes:
    """u32 values, little-endian."""
    if sys.byteorder == "big":
        values = array("I", values)
        values.byteswap()
    return values.tobytes()


def column(data: bytes) -> array[int]:
    values = array("I", data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def object_header(magic: bytes, keyring: Keyring) -> tuple[bytes, bytes]:
    """A new object's header and its salt."""
    salt = os.urandom(SALT_BYTES)
    return _HEADER.pack(magic, keyring.repository_id, salt), salt


def read_header(data: Buffer, magic: bytes, keyring: Keyring, name: str) -> bytes:
    """The salt; ``Damaged`` if this is no such object of this repository."""
    if len(data) < HEADER_BYTES:
        raise Damaged(name=name, reason="it is cut short")
    found, repository_id, salt = _HEADER.unpack_from(data)
    if (
        found != magic
        or repository_id != keyring.repository_id
        or any(memoryview(data)[HEADER_BYTES - 8 : HEADER_BYTES])
    ):
        raise Damaged(name=name, reason="its header is not that of such an object of this repository")
    return bytes(salt)


def block_bound(block_id: bytes, plain_word: int) -> bytes:
    """What a block's tag covers besides its payload."""
    return block_id + plain_word.to_bytes(4, "little")


@dataclass(frozen=True)
class PackTable:
    """What a pack holds: columns in the order of the blocks. ``name`` is the hash, 32 bytes."""

    pack_id: bytes
    salt: bytes
    size_bytes: int
    ids: bytes
    stored: array[int]
    plain: array[int]

    def entries(self) -> Iterator[tuple[int, bytes, int, int, int]]:
        """``(position, block id, offset, stored length, plain word)``."""
        offset = HEADER_BYTES
        for position, (stored, plain) in enumerate(zip(self.stored, self.plain, strict=True)):
            start = position * BLOCK_ID_BYTES
            yield position, self.ids[start : start + BLOCK_ID_BYTES], offset, stored, plain
            offset += stored


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a pack that was given to one block."""

    position: int
    offset: int
    stored: int


class OpenPack:
    """A pack being filled. ``take`` and ``close`` under the writer's lock; ``fill`` by many threads at once."""

    def __init__(self, keyring: Keyring, cluster_id: str, buffer: memoryview, limit_bytes: int) -> None:
        """``buffer`` holds ``limit_bytes`` plus ``table_room()``; it belongs to the pack until it was stored."""
        self.buffer = self._view = buffer
        self._limit_bytes = limit_bytes
        header, self._salt = object_header(PACK_MAGIC, keyring)
        self._view[:HEADER_BYTES] = header
        self._sealer: Sealer = keyring.sealer("pack", cluster_id, self._salt)
        self._used_bytes = HEADER_BYTES
        self._ids, self._stored, self._plain = bytearray(), array("I"), array("I")
        self.pending = 0  # slots given and not filled yet
        self.closed = False

    @staticmethod
    def table_room() -> int:
        return MAX_ENTRIES * ENTRY_BYTES + TAG_BYTES + TRAILER_BYTES

    def take(self, block_id: bytes, payload_bytes: int, plain_word: int) -> Slot | None:
        """Room for one more block, or None: the pack is full."""
        stored = payload_bytes + TAG_BYTES
        if len(self._stored) >= MAX_ENTRIES or self._used_bytes + stored > self._limit_bytes:
            return None
        slot = Slot(len(self._stored), self._used_bytes, stored)
        self._ids += block_id
        self._stored.append(stored)
        self._plain.append(plain_word)
        self._used_bytes += stored
        self.pending += 1
        return slot

    def take_some(self, packed: Iterable[tuple[bytes, Buffer, int]]) -> list[Slot]:
        """Room for as many of the first ``(block id, payload, plain word)`` as there is."""
        slots = []
        for block_id, payload, plain_word in packed:
            slot = self.take(block_id, len(payload), plain_word)
            if slot is None:
                break
            slots.append(slot)
        return slots

    def fill(self, slot: Slot, payload: Buffer, block_id: bytes, plain_word: int) -> None:
        out = self._view[slot.offset : slot.offset + slot.stored]
        self._sealer.seal_into(slot.position, payload, block_bound(block_id, plain_word), out)

    def finish(self) -> tuple[PackTable, memoryview]:
        """Add table and trailer; the pack's bytes are its buffer's first ones."""
        count = len(self._stored)
        table = b"".join((self._ids, column_bytes(self._stored), column_bytes(self._plain)))
        start, end = self._used_bytes, self._used_bytes + len(table) + TAG_BYTES
        size_bytes = end + TRAILER_BYTES
        trailer = _TRAILER.pack(count, PACK_END)
        bound = _table_bound(self._view[:HEADER_BYTES], trailer, size_bytes)
        self._sealer.seal_into(TABLE_POSITION, table, bound, self._view[start:end])
        self._view[end:size_bytes] = trailer
        whole = self._view[:size_bytes]
        pack_id = blake3(whole).digest()  # R1
        return PackTable(pack_id, self._salt, size_bytes, bytes(self._ids), self._stored, self._plain), whole


def _table_bound(header: Buffer, trailer: Buffer, size_bytes: int) -> bytes:
    return bytes(header) + bytes(trailer) + size_bytes.to_bytes(8, "little")


def read_table(data: Buffer, keyring: Keyring, cluster_id: str, name: str, pack_id: bytes | None = None) -> PackTable:
    """The table of a whole pack; ``Damaged(name)`` if anything of it differs from what was written. ``pack_id``: its
    hash, where that was just computed from the very same bytes."""
    view = memoryview(data)
    salt = read_header(view, PACK_MAGIC, keyring, name)
    if len(view) < HEADER_BYTES + TAG_BYTES + TRAILER_BYTES:
        raise Damaged(name=name, reason="it is cut short")
    trailer = view[-TRAILER_BYTES:]
    count, end_magic = _TRAILER.unpack(trailer)
    start = len(view) - TRAILER_BYTES - TAG_BYTES - count * ENTRY_BYTES
    if end_magic != PACK_END or count > MAX_ENTRIES or start < HEADER_BYTES:
        raise Damaged(name=name, reason="its trailer is malformed")
    sealer = keyring.sealer("pack", cluster_id, salt)
    bound = _table_bound(view[:HEADER_BYTES], trailer, len(view))
    table = sealer.open(TABLE_POSITION, view[start:-TRAILER_BYTES], bound, name)
    stored, plain = column(table[count * 32 : count * 36]), column(table[count * 36 :])
    check_columns(stored, plain, start - HEADER_BYTES, name)
    return PackTable(pack_id or blake3(view).digest(), salt, len(view), table[: count * 32], stored, plain)


def check_columns(stored: array[int], plain: array[int], blocks_bytes: int, name: str) -> None:
    """Lengths that a reader may rely on: each possible, and together exactly the blocks' room."""
    if sum(stored) != blocks_bytes or any(n < TAG_BYTES for n in stored):
        raise Damaged(name=name, reason="its entries do not fill it")
    if any(word & ~COMPRESSED > MAX_PLAIN_BYTES for word in plain):
        raise Damaged(name=name, reason="an entry is too long")


def check_pack(
    data: Buffer, keyring: Keyring, cluster_id: str, codec: BlockCodec, name: str, pack_id: bytes | None = None
) -> PackTable:
    """Decode a whole pack, its table and every block, once (R7)."""
    view = memoryview(data)
    table = read_table(view, keyring, cluster_id, name, pack_id)
    sealer = keyring.sealer("pack", cluster_id, table.salt)
    for position, block_id, offset, stored, plain_word in table.entries():
        payload = sealer.open(position, view[offset : offset + stored], block_bound(block_id, plain_word), name)
        codec.unpack(payload, plain_word, block_id, name)
    return table
