"""Blocks: their ids, and their bytes as compressed or as they are."""

from __future__ import annotations

import threading

import zstandard
from blake3 import blake3

from icecore.errors import Damaged
from icecore.storage import Buffer

BLOCK_ID_BYTES = 32
DEFAULT_BLOCK_BYTES = 131_072
MIN_BLOCK_BYTES, MAX_BLOCK_BYTES = 4096, 1 << 20
MAX_PLAIN_BYTES = 1 << 22  # of anything stored as a block; a table section may be larger than a file's block
COMPRESSED = 1 << 31  # flag in a plain word; the rest is the plain length
ZSTD_LEVEL = 1
WORTH_SHIFT = 5  # kept compressed if that saves 1/32 (3 %): less is not worth a decompression at restore


class BlockCodec:
    """Block <-> payload. A payload is described by its *plain word*: plain length, and ``COMPRESSED`` or not.

    Safe for threads; zstd contexts are not, so each thread has its own.
    """

    def __init__(self, block_key: bytes) -> None:
        self._key = block_key
        self._own = threading.local()

    def block_id(self, data: Buffer) -> bytes:
        return blake3(data, key=self._key).digest()

    def pack(self, data: Buffer) -> tuple[Buffer, int]:
        """Payload and plain word. The payload is ``data`` itself where compression is not worth it."""
        compressor = getattr(self._own, "compressor", None)
        if compressor is None:
            compressor = self._own.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        size = len(data)
        compressed: bytes = compressor.compress(data)
        if len(compressed) > size - (size >> WORTH_SHIFT):
            return data, size
        return compressed, size | COMPRESSED

    def unpack(self, payload: bytes, plain_word: int, block_id: bytes, name: str) -> bytes:
        """The block; ``Damaged(name)`` unless it is the one with ``block_id`` (R5)."""
        size = plain_word & ~COMPRESSED
        data = self._decompressed(payload, size, name) if plain_word & COMPRESSED else payload
        if len(data) != size or self.block_id(data) != block_id:  # R5
            raise Damaged(name=name, reason=f"what it holds is not block {block_id.hex()[:16]}")
        return data

    def _decompressed(self, payload: bytes, size: int, name: str) -> bytes:
        decompressor = getattr(self._own, "decompressor", None)
        if decompressor is None:
            decompressor = self._own.decompressor = zstandard.ZstdDecompressor()
        try:
            # The frame's own size decides what is allocated, so it is compared before.
            if zstandard.frame_content_size(payload) != size or size > MAX_PLAIN_BYTES:
                raise Damaged(name=name, reason="a block's frame has another size than its entry")
            data: bytes = decompressor.decompress(payload)
        except zstandard.ZstdError as error:
            raise Damaged(name=name, reason="a block does not decompress") from error
        return data
