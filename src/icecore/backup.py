"""The backup, as a runbook: ``run`` is the whole procedure, in the order that ``docs/invariants.md`` demands.

Joins an engine and a repository; knows no catalog, no HTTP and no job queue. It may be killed anywhere and run
again: what was stored is found again, and a manifest that an earlier run wrote is adopted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import local
from typing import Protocol

from icecore import __version__, errors
from icecore.engines import BackupSession, Engine, Probe, SourceFile, SourceVanished
from icecore.model import BackupFacts, BackupMode, Boundary, FileKind, Phase
from icecore.repository import Repository, StoredFile, Writer

SPAN_BYTES = 64 << 20  # one task reads this much: large enough to be sequential, small enough to share a 1 GiB file
ALIVE_EVERY_S = 1.0


@dataclass(frozen=True)
class BackupOrder:
    """What was accepted: all of it goes into the manifest (R8)."""

    backup_id: str
    cluster_id: str
    cluster_name: str
    job_uuid: str
    mode: BackupMode = BackupMode.MANUAL
    client_token: str = ""
    token_digest: str = ""
    comment: str = ""


class Watch(Protocol):
    """Who looks on: gets the phases and bytes, and may stop the work between two steps by raising."""

    def phase(self, phase: Phase, total_bytes: int = 0) -> None: ...
    def advance(self, done_bytes: int, new_bytes: int) -> None: ...
    def step(self, name: str) -> None:
        """Between two steps. Names are stable: tests kill at each of them."""


@dataclass(frozen=True)
class BackupDone:
    facts: BackupFacts
    new_bytes: int  # stored by this run
    adopted: bool = False  # an earlier run had written the manifest


def run(
    engine: Engine, repository: Repository, order: BackupOrder, watch: Watch, *, scratch: Path, threads: int
) -> BackupDone:
    """Make one full backup. ``scratch`` is an empty directory of this run's own, for captured logs.

    Errors: EngineRefused, EngineUnreachable, EngineFailed, StorageFailed, LeaseHeld, Damaged.
    """
    # An earlier run of this very job got as far as the manifest: the backup exists (R4), nothing is left to do
    earlier = repository.has(order.cluster_id, order.backup_id)
    if earlier is not None:
        return _adopt(earlier, order)

    # Look at the server and refuse early
    watch.phase(Phase.PREPARING)
    probe = engine.probe()
    refuse_early(probe)
    watch.step("probed")

    # One writer per cluster: the lease is held until the manifest is written
    with repository.writer(order.cluster_id) as writer:
        watch.step("leased")

        # The server begins a backup: from here on its log repairs what we read while it changes
        watch.phase(Phase.WAITING, probe.size_bytes)
        with engine.start(f"icecore {order.backup_id}", scratch) as session:
            watch.step("started")

            # Every file, then the ones that must be read after all others
            watch.phase(Phase.UPLOADING, probe.size_bytes)
            copier = Copier(writer, session, watch, threads)
            stored = copier.copy(session.files())
            watch.step("copied")
            stored += copier.copy(session.closing_files())
            watch.step("closing-copied")

            # The server ends the backup; the log up to that point is captured
            boundary = session.stop()
            watch.step("stopped")
            stored += copier.copy(session.tail_files())
            omitted = session.omitted()
            warnings, engine_facts = session.warnings(), session.facts()
        watch.step("session-closed")

        # Blocks durable, then the index (R2, R3); then what was produced is decoded once (R7)
        watch.phase(Phase.CHECKING, probe.size_bytes)
        writer.finish_blocks()
        watch.step("blocks-finished")
        writer.check()
        watch.step("checked")

        # The manifest, create-only, last: from here on the backup exists (R4)
        files = [file for file in stored if file.meta.path not in omitted]
        facts = _facts(order, probe, boundary, files, warnings, engine_facts)
        writer.commit(facts, files)
        watch.step("committed")
        return BackupDone(facts, writer.new_bytes)


def refuse_early(probe: Probe) -> None:
    """Raise EngineRefused with the first finding that would make a backup worthless."""
    for finding in probe.findings:
        if finding.level == "refusal":
            raise errors.EngineRefused(finding.what, hint=finding.fix or "See `icecore cluster check`.")


def _adopt(earlier: BackupFacts, order: BackupOrder) -> BackupDone:
    if earlier.job_uuid != order.job_uuid:
        raise errors.Damaged(
            name=f"backup {order.backup_id}", reason="the repository has another backup under this number"
        )
    return BackupDone(earlier, new_bytes=0, adopted=True)


def _facts(
    order: BackupOrder,
    probe: Probe,
    boundary: Boundary,
    files: list[StoredFile],
    warnings: tuple[str, ...],
    engine_facts: dict[str, object],
) -> BackupFacts:
    return BackupFacts(
        backup_id=order.backup_id,
        cluster_id=order.cluster_id,
        cluster_name=order.cluster_name,
        job_uuid=order.job_uuid,
        mode=order.mode,
        boundary=boundary,
        engine=probe.engine,
        engine_version=probe.version,
        size_bytes=sum(file.meta.size_bytes for file in files),
        file_count=len(files),
        tool_version=__version__,
        client_token=order.client_token,
        token_digest=order.token_digest,
        comment=order.comment,
        warnings=warnings,
        engine_facts=engine_facts,
    )


# ---------------------------------------------------------------- from source files to stored files


@dataclass(frozen=True)
class _Span:
    """The ids of the blocks of one stretch of a file and how many bytes they hold."""

    blocks: bytes
    size_bytes: int


class Copier:
    """Reads source files in several threads and gives their blocks to the writer; a stream is read in one."""

    def __init__(self, writer: Writer, session: BackupSession, watch: Watch, threads: int) -> None:
        self._writer = writer
        self._session = session
        self._watch = watch
        self._threads = 1 if session.ordered else threads
        self._block_bytes = writer.block_bytes
        self._span_bytes = SPAN_BYTES - SPAN_BYTES % writer.block_bytes
        self._buffers = local()
        self._done_bytes = 0
        self._asked_at = 0.0

    def copy(self, files: Iterable[SourceFile]) -> list[StoredFile]:
        """Store all of them; those that vanished meanwhile are left out. Order is the order given, or by size."""
        if self._session.ordered:
            return [done for file in files if (done := self._copy_in_order(file)) is not None]
        ordered = sorted(files, key=lambda file: -file.meta.size_bytes)  # largest first: a short tail
        stored: list[StoredFile] = []
        waiting: deque[tuple[SourceFile, list[Future[_Span]]]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="copy") as pool:
            try:
                for file in ordered:
                    waiting.append((file, [pool.submit(self._read, file, *span) for span in self._spans(file)]))
                    while len(waiting) > self._threads * 4:
                        stored.extend(self._collect(*waiting.popleft()))
                while waiting:
                    stored.extend(self._collect(*waiting.popleft()))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return stored

    def _spans(self, file: SourceFile) -> Iterator[tuple[int, int]]:
        if file.meta.kind is FileKind.FILE:
            for start in range(0, file.meta.size_bytes, self._span_bytes):
                yield start, min(start + self._span_bytes, file.meta.size_bytes)

    def _collect(self, file: SourceFile, spans: list[Future[_Span]]) -> Iterator[StoredFile]:
        blocks, size_bytes = [], 0
        try:
            for future in spans:
                span = future.result()
                self._tell(span.size_bytes)
                blocks.append(span.blocks)
                size_bytes += span.size_bytes
                if size_bytes % self._span_bytes:
                    break  # the file ends here: it shrank, or this was its last span
        except SourceVanished:
            return
        yield _stored(file, b"".join(blocks), size_bytes)

    def _copy_in_order(self, file: SourceFile) -> StoredFile | None:
        span = _Span(b"", 0)
        if file.meta.kind is FileKind.FILE:
            try:
                span = self._read(file, 0, file.meta.size_bytes)
            except SourceVanished:
                return None
        self._tell(span.size_bytes)
        return _stored(file, span.blocks, span.size_bytes)

    def _read(self, file: SourceFile, start: int, end: int) -> _Span:
        """Blocks from ``start`` up to ``end`` or the file's end. Runs in a worker thread."""
        if not hasattr(self._buffers, "view"):
            self._buffers.view = memoryview(bytearray(self._block_bytes))
        view: memoryview = self._buffers.view
        ids, at = [], start
        with file.open() as reader:
            while at < end:
                wanted = min(self._block_bytes, end - at)
                got = reader.read(at, view[:wanted])
                if got:
                    ids.append(self._writer.add_block(view[:got]))
                at += got
                if got < wanted:
                    break
        return _Span(b"".join(ids), at - start)

    def _tell(self, read_bytes: int) -> None:
        self._done_bytes += read_bytes
        self._watch.advance(self._done_bytes, self._writer.new_bytes)
        self._watch.step("copying")
        if time.monotonic() - self._asked_at > ALIVE_EVERY_S:
            self._session.alive()
            self._asked_at = time.monotonic()


def _stored(file: SourceFile, blocks: bytes, size_bytes: int) -> StoredFile:
    meta = file.meta
    if meta.size_bytes != size_bytes:
        meta = replace(meta, size_bytes=size_bytes)
    return StoredFile(meta, blocks)
