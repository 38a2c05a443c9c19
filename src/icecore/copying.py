"""From source files to stored files: read in several threads, hashed and stored by the writer.

What an older image proves unchanged is not read: its blocks are adopted by the ids that the older backup has for them.
A share of those is read all the same, and one difference ends the trust in such proofs (``Distrusted``).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from threading import local
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from icecore import directio
from icecore.binding import Part
from icecore.cores import usable_cores
from icecore.crew import Crew
from icecore.engines import SourceFile, SourceReader, SourceVanished
from icecore.laps import Laps, lap
from icecore.model import FileKind, Phase
from icecore.pace import Pace
from icecore.receiving import Receiving
from icecore.repository import FileList, StoredFile, Writer

SPAN_BYTES = 64 << 20  # one task reads this much: large enough to be sequential, small enough to share a 1 GiB file
READ_BYTES = 1 << 20  # at once, checked and added together; past the page cache a disk wants no less
ALIVE_EVERY_S = 1.0
LISTEN_EVERY_S = 0.5  # to a cancel, while a span takes its time
GROUP_FILES, GROUP_BYTES = 64, 4 << 20  # small files that one task reads: a task costs more than such a file
AUDIT_ONE_IN = 128  # of the blocks that need not be read
ID_BYTES = 32

Unchanged = NDArray[np.bool_]


class Distrusted(Exception):
    """A block that the file system's maps called unchanged has other bytes."""

    def __init__(self, path: str, offset: int) -> None:
        super().__init__(f"{path} at {offset}")


class Watch(Protocol):
    """Who looks on: gets the phases and bytes, and may stop the work between two steps by raising."""

    def phase(self, phase: Phase, total_bytes: int = 0) -> None: ...
    def advance(self, done_bytes: int, new_bytes: int) -> None: ...
    def step(self, name: str) -> None:
        """Between two steps. Names are stable: tests kill at each of them."""


@dataclass
class Known:
    """What an older backup has of a file. ``prove`` tells, once asked, which of the file's blocks are unchanged since;
    None: nothing is known after all."""

    size_bytes: int
    blocks: bytes  # concatenated ids
    prove: Callable[[], Unchanged | None]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _asked: bool = False
    _proof: Unchanged | None = None

    def proof(self) -> Unchanged | None:
        with self._lock:
            if not self._asked:
                self._proof, self._asked = self.prove(), True
            return self._proof


@dataclass(frozen=True)
class _Span:
    """The ids of the blocks of one stretch of a file and how many bytes they hold."""

    blocks: bytes
    size_bytes: int
    read_bytes: int


class Copier:
    """Reads source files in several threads and gives their blocks to the writer; a stream is received by one.

    ``alive``: called about once a second while the files read are those of a living server.
    """

    def __init__(
        self,
        writer: Writer,
        watch: Watch,
        threads: int,
        *,
        ordered: bool,
        pace: Pace | None = None,
        laps: Laps | None = None,
        give_up: Callable[[], None] = lambda: None,
        readers_at_most: int = 0,
    ) -> None:
        """``give_up``: makes what a stream's reader waits for end soon. ``readers_at_most``: more threads than
        ``threads``, where they wait for the disk."""
        self.read_bytes = 0  # of files; the rest was proven unchanged
        self._writer = writer
        self._watch = watch
        self._ordered = ordered
        self._threads = threads
        self._block_bytes = writer.block_bytes
        self._span_bytes = SPAN_BYTES - SPAN_BYTES % writer.block_bytes
        self._read_bytes = max(READ_BYTES - READ_BYTES % writer.block_bytes, writer.block_bytes)
        self._pace = pace or Pace()
        self._laps = laps or Laps()
        self._crew = Crew(threads, readers_at_most, usable_cores(), self._laps, self._pace)
        self._give_up = give_up
        self._ended = threading.Event()  # the copy under way is given up
        self._buffers = local()
        self._done_bytes = 0
        self._asked_at = 0.0

    def copy(
        self,
        files: Iterable[SourceFile],
        stored: FileList,
        known: Callable[[SourceFile], Known | None] = lambda file: None,
        *,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Store all of them and add them to ``stored``, in the order given; those that vanished meanwhile are left out.
        A few are held at a time.

        ``known``: what an older backup has of a file; raises ``Distrusted`` when that turns out wrong.
        """
        if self._ordered:
            self._copy_in_order(files, stored, alive)
            return
        waiting: deque[tuple[list[SourceFile], list[Future[list[_Span | None]]]]] = deque()
        self._ended = threading.Event()
        with ThreadPoolExecutor(self._crew.at_most, "copy", self._pace.begin_thread) as pool:
            try:
                for group in _groups(files):
                    work = [
                        (file, *span, older) for file in group for older in [known(file)] for span in self._spans(file)
                    ]
                    # the spans of one large file are shared among the threads, a group's files are not
                    tasks = [[each] for each in work] if len(group) == 1 else [work]
                    waiting.append((group, [pool.submit(self._read_some, task) for task in tasks]))
                    while len(waiting) > self._crew.size * 4:
                        self._collect(*waiting.popleft(), stored, alive)
                while waiting:
                    self._collect(*waiting.popleft(), stored, alive)
            except BaseException:
                self._ended.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _spans(self, file: SourceFile) -> Iterator[tuple[int, int]]:
        if file.meta.kind is FileKind.FILE:
            for start in range(0, file.meta.size_bytes, self._span_bytes):
                yield start, min(start + self._span_bytes, file.meta.size_bytes)

    def _collect(
        self,
        group: list[SourceFile],
        tasks: list[Future[list[_Span | None]]],
        stored: FileList,
        alive: Callable[[], None],
    ) -> None:
        spans: list[_Span | None] = []
        for future in tasks:
            while not future.done():
                wait([future], LISTEN_EVERY_S)
                self._listen(alive)
            some = future.result()
            self._tell(some, alive)
            spans += some
        rest = iter(spans)
        for file in group:
            whole = self._joined([next(rest) for _ in self._spans(file)])
            if whole is not None:
                stored.append(_stored(file, whole.blocks, whole.size_bytes))

    def _joined(self, spans: list[_Span | None]) -> _Span | None:
        """One file's, None if it vanished."""
        blocks, size_bytes = [], 0
        for span in spans:
            if span is None:
                return None
            blocks.append(span.blocks)
            size_bytes += span.size_bytes
            if size_bytes % self._span_bytes:
                break  # the file ends here: it shrank, or this was its last span
        return _Span(b"".join(blocks), size_bytes, 0)

    def _copy_in_order(self, files: Iterable[SourceFile], stored: FileList, alive: Callable[[], None]) -> None:
        """Received beside this thread, which listens meanwhile."""
        self._ended = threading.Event()
        stream = Receiving(self._writer, self._threads, self._pace, self._laps, self._ended, self._received)

        def receive() -> None:
            for each in stream.store(files):
                stored.append(_stored(*each))

        with ThreadPoolExecutor(1, "receive", self._pace.begin_thread) as pool:
            future = pool.submit(receive)
            try:
                while not future.done():
                    wait([future], LISTEN_EVERY_S)
                    self._tell([], alive)
            except BaseException:
                self._ended.set()
                self._give_up()
                raise
            future.result()

    def _received(self, count: int) -> None:
        self._done_bytes += count
        self.read_bytes += count

    # ------------------------------------------------------------ in a worker thread

    def _read_some(self, work: list[tuple[SourceFile, int, int, Known | None]]) -> list[_Span | None]:
        """One after the other; None for what vanished."""
        spans: list[_Span | None] = []
        with self._crew, self._laps.working():
            for file, start, end, older in work:
                try:
                    spans.append(self._read(file, start, end, older))
                except SourceVanished:
                    spans.append(None)
        return spans

    def _read(self, file: SourceFile, start: int, end: int, known: Known | None) -> _Span:
        """Blocks from ``start`` up to ``end`` or the file's end."""
        adopted = self._adopt(start, end, known)
        lap(Part.READ)
        if adopted is not None and adopted.whole:
            return _Span(adopted.ids.tobytes(), end - start, 0)
        ids, at, read_bytes = [], start, 0
        with file.open() as reader:
            for behind, known_ids in self._stretches(start, end, adopted):
                if self._ended.is_set():
                    raise CancelledError
                if known_ids is not None:
                    ids.append(known_ids)
                    at = behind
                    continue
                got, new_ids = self._add(reader, at, behind - at)
                ids.append(new_ids)
                read_bytes += got
                if at + got < behind:
                    at += got
                    break
                at = behind
            if adopted is not None:
                self._audit(file, reader, start, end, adopted)
        return _Span(b"".join(ids), at - start, read_bytes)

    def _stretches(self, start: int, end: int, adopted: _Adopted | None) -> Iterator[tuple[int, bytes | None]]:
        """Where each stretch ends, and the ids of one that is adopted; None: to be read, in one go."""
        at, number = start, 0
        runs = [(False, -(-(end - start) // self._block_bytes))] if adopted is None else adopted.runs()
        for found, count in runs:
            behind = min(at + count * self._block_bytes, end)
            if found and adopted is not None:
                yield behind, adopted.ids[number : number + count].tobytes()
            else:
                for cut in range(at + self._read_bytes, behind, self._read_bytes):
                    yield cut, None
                yield behind, None
            at, number = behind, number + count

    def _add(self, reader: SourceReader, at: int, wanted: int) -> tuple[int, bytes]:
        if not hasattr(self._buffers, "view"):
            self._buffers.view = directio.aligned_buffer(self._read_bytes)
        view: memoryview = self._buffers.view
        self._pace.spend(wanted, self._ended)
        got = reader.read(at, view[:wanted])
        lap(Part.READ)
        self._crew.count(got)
        ids = self._writer.add_blocks(view[:got]) if got else b""
        lap(Part.CPU)
        return got, ids

    def _adopt(self, start: int, end: int, known: Known | None) -> _Adopted | None:
        """What of this span is proven unchanged and still stored."""
        unchanged = known.proof() if known is not None else None
        if known is None or unchanged is None:
            return None
        numbers = np.arange(start // self._block_bytes, -(-end // self._block_bytes))
        ends = np.minimum((numbers + 1) * self._block_bytes, end)
        # a block that a file's end cuts off is the same one only where both files end there
        full = (ends % self._block_bytes == 0) & (ends <= known.size_bytes)
        proven = (full | (ends == known.size_bytes)) & (numbers < len(unchanged))
        proven[proven] = unchanged[numbers[proven]]
        ids = np.zeros(len(numbers), f"V{ID_BYTES}")
        ids[proven] = np.frombuffer(known.blocks, f"V{ID_BYTES}")[numbers[proven]]
        proven[proven] = self._writer.adopt(ids[proven].tobytes())
        audited = proven & (np.random.default_rng().random(len(proven)) < 1 / AUDIT_ONE_IN)
        return _Adopted(ids, proven, audited)

    def _audit(self, file: SourceFile, reader: SourceReader, start: int, end: int, adopted: _Adopted) -> None:
        """Some of what was adopted is read all the same: it must be what it is said to be."""
        for number in np.flatnonzero(adopted.audited).tolist():
            at = start + number * self._block_bytes
            wanted = min(self._block_bytes, end - at)
            if self._add(reader, at, wanted) != (wanted, adopted.ids[number].tobytes()):
                raise Distrusted(file.meta.path, at)

    # ------------------------------------------------------------ in the procedure's thread

    def _tell(self, spans: list[_Span | None], alive: Callable[[], None]) -> None:
        for span in spans:
            if span is not None:
                self._done_bytes += span.size_bytes
                self.read_bytes += span.read_bytes
        self._watch.advance(self._done_bytes, self._writer.new_bytes)
        self._listen(alive)

    def _listen(self, alive: Callable[[], None]) -> None:
        self._watch.step("copying")
        self._crew.look()
        if time.monotonic() - self._asked_at > ALIVE_EVERY_S:
            alive()
            self._asked_at = time.monotonic()


@dataclass(frozen=True)
class _Adopted:
    """One entry a block of the span: the older id, whether it is adopted, whether it is read all the same."""

    ids: NDArray[np.void]
    found: Unchanged
    audited: Unchanged

    @property
    def whole(self) -> bool:
        return bool(self.found.all()) and not bool(self.audited.any())

    def runs(self) -> Iterator[tuple[bool, int]]:
        """How many blocks in a row are adopted, are not, are, …"""
        cuts = np.flatnonzero(np.diff(self.found)) + 1
        starts = [0, *cuts.tolist(), len(self.found)]
        return ((bool(self.found[first]), behind - first) for first, behind in itertools.pairwise(starts))


def _groups(files: Iterable[SourceFile]) -> Iterator[list[SourceFile]]:
    """Small files that follow each other together, a larger one alone."""
    group: list[SourceFile] = []
    group_bytes = 0
    for file in files:
        if group and (group_bytes + file.meta.size_bytes > GROUP_BYTES or len(group) >= GROUP_FILES):
            yield group
            group, group_bytes = [], 0
        group.append(file)
        group_bytes += file.meta.size_bytes
    if group:
        yield group


def _stored(file: SourceFile, blocks: bytes, size_bytes: int) -> StoredFile:
    meta = file.meta
    if meta.size_bytes != size_bytes:
        meta = replace(meta, size_bytes=size_bytes)
    return StoredFile(meta, blocks)
