"""The backup, as a runbook: ``run`` is the whole procedure, in the order that ``docs/invariants.md`` demands.

Joins an engine and a repository; knows no catalog, no HTTP and no job queue. It may be killed anywhere and run
again: what was stored is found again, and a manifest that an earlier run wrote is adopted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from icecore import __version__, errors
from icecore.copying import Copier, Watch
from icecore.engines import Engine, Probe
from icecore.imaging import Imaging, Noting
from icecore.laps import Laps
from icecore.model import BackupFacts, BackupMode, Boundary, Phase
from icecore.pace import Pace
from icecore.repository import FileList, Repository, StoredFile

__all__ = ["BackupDone", "BackupOrder", "Watch", "refuse_early", "run"]


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


@dataclass(frozen=True)
class BackupDone:
    facts: BackupFacts
    new_bytes: int  # stored by this run
    imaged: bool = False  # an image of it is kept on the cluster's own file systems,
    image_parents: tuple[Path, ...] = ()  # beside these directories
    adopted: bool = False  # an earlier run had written the manifest


def run(
    engine: Engine,
    repository: Repository,
    order: BackupOrder,
    watch: Watch,
    *,
    scratch: Path,
    threads: int,
    images: Noting | None = lambda parents: None,
    pace: Pace | None = None,
    laps: Laps | None = None,
    readers_at_most: int = 0,
) -> BackupDone:
    """Make one full backup. ``scratch`` is an empty directory of this run's own, for captured logs. ``images``: hold
    the server only as long as its files take to be cloned, where its file systems can do that; called before with the
    directories beside which images will lie. None: read everything at once. ``pace``: how fast it may read.
    ``laps``: where its time goes. ``readers_at_most``: so many instead of ``threads``, where they wait for the disk.

    Errors: EngineRefused, EngineUnreachable, EngineFailed, StorageFailed, LeaseHeld, Damaged.
    """
    # An earlier run of this very job got as far as the manifest: the backup exists (R4), nothing is left to do
    earlier = repository.has(order.cluster_id, order.backup_id)
    if earlier is not None:
        return _adopt(earlier, order)

    # Look at the server and refuse early
    watch.phase(Phase.PREPARING)
    repository.refuse_spent(order.cluster_id, order.backup_id)
    probe = engine.probe()
    refuse_early(probe)
    watch.step("probed")

    # One writer per cluster: the lease is held until the manifest is written
    with repository.writer(order.cluster_id) as writer, ExitStack() as until_end:
        watch.step("leased")

        # The server begins a backup: from here on its log repairs what we read while it changes
        watch.phase(Phase.WAITING, probe.size_bytes)
        with engine.start(f"icecore {order.backup_id}", scratch) as session:
            watch.step("started")

            # Every file is cloned where its file system can share blocks, and read later; the others are read now
            imaging = Imaging(
                order.cluster_id,
                order.backup_id,
                order.job_uuid,
                session,
                block_bytes=repository.block_bytes,
                noting=images,
            )
            image = until_end.enter_context(imaging)
            to_read = image.take(session.files(), threads)
            watch.step("imaged")
            watch.phase(Phase.UPLOADING, probe.size_bytes)
            copier = Copier(
                writer,
                watch,
                threads,
                ordered=session.ordered,
                pace=pace,
                laps=laps,
                give_up=session.give_up,
                readers_at_most=readers_at_most,
            )
            stored = FileList()
            copier.copy(to_read, stored, alive=image.alive)
            watch.step("copied")

            # Those that must be read after all others
            copier.copy(session.closing_files(), stored, alive=session.alive)
            watch.step("closing-copied")

            # The server ends the backup; the log up to that point is captured
            boundary = session.stop()
            watch.step("stopped")
            copier.copy(session.tail_files(), stored, alive=session.alive)
            omitted = session.omitted()
            engine_facts = session.facts()
        watch.step("session-closed")

        # The server is free again. What was cloned is read, but for what an older image proves unchanged
        cloned = image.copy(copier, repository, writer)
        warnings = session.warnings() + image.warnings()
        watch.step("uploaded")

        # Blocks durable, then the index (R2, R3); then what was produced is decoded once (R7)
        watch.phase(Phase.CHECKING, probe.size_bytes)
        writer.finish_blocks()
        watch.step("blocks-finished")
        writer.check()
        watch.step("checked")

        # The manifest, create-only, last: from here on the backup exists (R4)
        facts = _facts(
            order, probe, boundary, _without(omitted, stored, cloned), warnings, engine_facts | image.facts()
        )
        writer.commit(facts, _without(omitted, stored, cloned))
        watch.step("committed")

        # Only now may an image stay: it is a faster way in, never the only copy
        kept = image.keep()
        return BackupDone(facts, writer.new_bytes, kept, image.parents)


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


def _without(omitted: frozenset[str], *lists: FileList) -> Iterator[StoredFile]:
    return (file for file in chain(*lists) if file.meta.path not in omitted)


def _facts(
    order: BackupOrder,
    probe: Probe,
    boundary: Boundary,
    files: Iterable[StoredFile],
    warnings: tuple[str, ...],
    engine_facts: dict[str, object],
) -> BackupFacts:
    size_bytes = file_count = 0
    for file in files:
        size_bytes, file_count = size_bytes + file.meta.size_bytes, file_count + 1
    return BackupFacts(
        backup_id=order.backup_id,
        cluster_id=order.cluster_id,
        cluster_name=order.cluster_name,
        job_uuid=order.job_uuid,
        mode=order.mode,
        boundary=boundary,
        engine=probe.engine,
        engine_version=probe.version,
        size_bytes=size_bytes,
        file_count=file_count,
        tool_version=__version__,
        client_token=order.client_token,
        token_digest=order.token_digest,
        comment=order.comment,
        warnings=warnings,
        engine_facts=engine_facts,
    )
