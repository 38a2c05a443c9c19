"""Blocks: their ids, and their bytes as compressed or as they are."""

from __future__ import annotations

import threading

import numpy as np
import zstandard
from blake3 import blake3

from icecore.errors import Damaged
from icecore.storage import Buffer

BLOCK_ID_BYTES = 32
DEFAULT_BLOCK_BYTES = 65_536
MIN_BLOCK_BYTES, MAX_BLOCK_BYTES = 4096, 1 << 20
MAX_PLAIN_BYTES = 1 << 22  # of anything stored as a block; a table section may be larger than a file's block
COMPRESSED = 1 << 31  # flag in a plain word; the rest is the plain length
ZSTD_LEVEL = 1
ZSTD_HASTY_LEVEL = (
    -1
)  # finds repetitions only: twice as fast, and as small where the bytes themselves are evenly spread
DENSE_BITS = 7.0  # of 8: what is left to gain by coding frequent bytes shorter is under an eighth, for half the speed
DENSE_SHIFT = 2  # a block that saved less than a quarter may be followed by dense ones
SAMPLE_STEP = 29  # bytes; odd, and no divisor of what tables are aligned to
WORTH_SHIFT = 5  # kept compressed if that saves 1/32 (3 %): less is not worth a decompression at restore


def bits_a_byte(data: Buffer) -> float:
    """The entropy of single bytes, from a sample: 8.0 for random ones."""
    sample = np.frombuffer(data, np.uint8)[::SAMPLE_STEP]
    counts = np.bincount(sample)
    counts = counts[counts > 0]
    return float(np.log2(len(sample)) - counts @ np.log2(counts) / len(sample))


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
        own = self._own
        if not hasattr(own, "compressor"):
            own.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
            own.hasty = zstandard.ZstdCompressor(level=ZSTD_HASTY_LEVEL)
            own.was_dense = False
        size = len(data)
        # Looked at only where the block before gave little: such blocks come in runs
        compressor = own.hasty if own.was_dense and bits_a_byte(data) > DENSE_BITS else own.compressor
        compressed: bytes = compressor.compress(data)
        own.was_dense = len(compressed) > size - (size >> DENSE_SHIFT)
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
