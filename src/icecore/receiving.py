"""Files that come one after the other and only once: one thread receives, others hash, compress and store beside it.

Handed over in pieces of a megabyte, in buffers that go round: so much is held and no more, and the slower makes the
other wait.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from icecore.binding import Part
from icecore.engines import SourceFile, SourceVanished
from icecore.laps import Laps, lap
from icecore.model import FileKind
from icecore.pace import Pace
from icecore.repository import Writer

PIECE_BYTES = 1 << 20  # to hand over a piece costs 0.05 ms, whatever is in it
SPARE_PIECES = 6  # beside one for each thread
FILES_OPEN = 64  # whose blocks may still be on their way


@dataclass
class _Received:
    file: SourceFile
    size_bytes: int = 0
    pieces: list[Future[bytes]] = field(default_factory=list)

    def whole(self) -> tuple[SourceFile, bytes, int]:
        return self.file, b"".join(piece.result() for piece in self.pieces), self.size_bytes


class Receiving:
    """``advance`` is told how many bytes were received since."""

    def __init__(
        self,
        writer: Writer,
        threads: int,
        pace: Pace,
        laps: Laps,
        ended: threading.Event,
        advance: Callable[[int], None],
    ) -> None:
        self._writer, self._threads, self._pace, self._laps = writer, threads, pace, laps
        self._ended, self._advance = ended, advance
        self._failure: BaseException | None = None
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        piece_bytes = max(PIECE_BYTES - PIECE_BYTES % writer.block_bytes, writer.block_bytes)
        for _ in range(threads + SPARE_PIECES):
            self._free.put(memoryview(bytearray(piece_bytes)))

    def store(self, files: Iterable[SourceFile]) -> Iterator[tuple[SourceFile, bytes, int]]:
        """Each file with its blocks' ids and its size, in order; those that vanished are left out. For the thread that
        receives. ``CancelledError`` when ``ended`` is set."""
        on_the_way: deque[_Received] = deque()
        workers = ThreadPoolExecutor(self._threads, "store", self._pace.begin_thread)
        with self._laps.working(leading=True), workers as pool:
            try:
                for file in files:
                    lap(Part.NETWORK)
                    try:
                        on_the_way.append(self._receive(file, pool))
                    except SourceVanished:
                        continue
                    while len(on_the_way) > FILES_OPEN:
                        yield on_the_way.popleft().whole()
                lap(Part.NETWORK)
                while on_the_way:
                    yield on_the_way.popleft().whole()
                    lap(None)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _receive(self, file: SourceFile, pool: ThreadPoolExecutor) -> _Received:
        received = _Received(file)
        if file.meta.kind is not FileKind.FILE:
            return received
        with file.open() as reader:
            while received.size_bytes < file.meta.size_bytes:
                if self._ended.is_set():
                    raise CancelledError
                piece = self._free.get()
                lap(None)  # the others are slower
                if self._failure is not None:
                    raise self._failure
                wanted = min(len(piece), file.meta.size_bytes - received.size_bytes)
                self._pace.spend(wanted, self._ended)
                got = reader.read(received.size_bytes, piece[:wanted])
                lap(Part.NETWORK)
                received.pieces.append(pool.submit(self._store, piece, got))
                received.size_bytes += got
                self._advance(got)
                if got < wanted:
                    break
        return received

    def _store(self, piece: memoryview, size_bytes: int) -> bytes:
        """The ids of its blocks. In a thread beside the one that receives."""
        try:
            with self._laps.working():
                ids = self._writer.add_blocks(piece[:size_bytes]) if size_bytes else b""
                lap(Part.CPU)
                return ids
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._free.put(piece)
