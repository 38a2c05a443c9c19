"""Restoring to a moment: which backup, which log, where recovery ends; and the log laid beside the files.

Works, like ``restore``, on nothing but the repository and its key. The log is laid into the data directory before the
first start: no command is called during recovery, so none can fail in a way that PostgreSQL takes for the log's end.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icecore import errors, recovery
from icecore.engines import LogFile, RecoveryTarget, RestoreEngine
from icecore.model import BackupFacts, LogBase, LogUnit
from icecore.recovery import Choice, Logs, Window
from icecore.repository import Log, Repository

SPARE_BYTES = 64 << 20
ATTEMPTS = 5


@dataclass(frozen=True)
class MomentPlan:
    """How a moment is restored; made before anything is written."""

    facts: BackupFacts  # of the backup that it begins with
    target: RecoveryTarget
    pieces: tuple[tuple[int, LogFile, int], ...]  # timeline, file, position up to which it is filled
    histories: tuple[int, ...]
    log_bytes: int


def logs_of(log: Log, engine: RestoreEngine) -> Logs:
    """What is known of a cluster's log, timelines and all."""
    switches = {timeline: engine.switch_points(log.history(timeline)) for timeline in log.listing.histories}
    return Logs(log.listing.units, switches)


def bases_of(facts: Sequence[BackupFacts], engine: RestoreEngine) -> list[LogBase]:
    return [engine.log_base(each) for each in facts]


def windows(repository: Repository, cluster_id: str, engine: RestoreEngine) -> list[Window]:
    """From the repository alone; manifests that cannot be read are passed over."""
    facts = list(repository.backups(cluster_id, damaged=[]))
    return recovery.windows(bases_of(facts, engine), logs_of(repository.log(cluster_id), engine))


def plan(
    repository: Repository,
    cluster_id: str,
    engine: RestoreEngine,
    *,
    moment_us: int = 0,
    position: int = 0,
    timeline: int = 0,
) -> MomentPlan:
    """For a moment, or for a position of the log; neither: the last moment there is. Reads the listing, the histories
    and the units around the moment.

    Errors: MomentNotRestorable, BackupNotFound, Damaged.
    """
    # What is merged while it is looked at is looked for again
    for attempt in range(ATTEMPTS):
        log = repository.log(cluster_id)
        try:
            return _plan(repository, log, cluster_id, engine, moment_us, position, timeline)
        except errors.Damaged:
            if attempt + 1 == ATTEMPTS or repository.log(cluster_id).listing.units == log.listing.units:
                raise
    raise AssertionError


def _plan(
    repository: Repository,
    log: Log,
    cluster_id: str,
    engine: RestoreEngine,
    moment_us: int,
    position: int,
    timeline: int,
) -> MomentPlan:
    # What there is
    backups = {each.backup_id: each for each in repository.backups(cluster_id, damaged=[])}
    if not backups:
        raise errors.BackupNotFound()
    logs, bases = logs_of(log, engine), bases_of(list(backups.values()), engine)

    # Which backup, along which timelines; refused with the nearest moments (P2)
    if position:
        choice = recovery.choose_position(position, timeline, bases, logs)
    else:
        moment_us = moment_us or recovery.latest(bases, logs)
        choice = recovery.choose(moment_us, bases, logs)
    facts = backups[choice.base.backup_id]

    # Where recovery ends
    target, end = _place(log, engine, choice, position) if position else _target(log, engine, choice, moment_us)
    if target.position < choice.base.stop and not target.inclusive:
        raise errors.MomentNotRestorable(
            moment=recovery.moment_text(moment_us),
            nearest=recovery.nearest(moment_us, [Window(choice.base.since_us, moment_us, 0)]),
        )

    # Which files of the log that takes
    pieces = []
    for line, start, left_at in choice.path:
        upto = min(left_at, end) if left_at else end
        if upto > start:
            pieces += [
                (line, file, min(file.position + file.size_bytes, upto))
                for file in engine.log_files(facts, line, start, upto)
            ]
        if end <= upto and line != choice.timeline:
            # It ends on an ancestor: the younger timelines do not come into it
            target = RecoveryTarget(line, target.position, target.inclusive)
            break
    histories = tuple(line for line in {target.timeline} if line in logs.switches)
    return MomentPlan(facts, target, tuple(pieces), histories, sum(file.size_bytes for _, file, _ in pieces))


def _target(log: Log, engine: RestoreEngine, choice: Choice, moment_us: int) -> tuple[RecoveryTarget, int]:
    """Right before the first commit later than the moment; after everything if none is. And how much log that needs:
    the server must read the record that it stops at."""

    def commit_after(unit: LogUnit) -> int:
        known = log.facts(unit)
        scan_from = int(known["scan_from"])
        start = max(scan_from - scan_from % int(known["page_bytes"]), _begins(log, unit))
        return engine.commit_after(log.read(unit.timeline, start, unit.end), start, moment_us, known)

    unit, found = recovery.settle(choice, commit_after)
    last = int(log.facts(unit)["last_record"])
    if not found and not last:
        raise errors.Damaged(name=unit.name, reason="it knows of no whole record")
    return RecoveryTarget(choice.timeline, found or last, inclusive=not found), unit.end


def _place(log: Log, engine: RestoreEngine, choice: Choice, position: int) -> tuple[RecoveryTarget, int]:
    """All records that begin before ``position``."""
    for unit in choice.units:
        known = log.facts(unit)
        if int(known["last_record"]) >= position:
            return RecoveryTarget(choice.timeline, position, inclusive=False), unit.end
    last = choice.units[-1]
    return RecoveryTarget(choice.timeline, int(log.facts(last)["last_record"]), inclusive=True), last.end


def _begins(log: Log, unit: LogUnit) -> int:
    """Where the log that leads up to ``unit`` without a hole begins."""
    at = unit.start
    for each in reversed([each for each in log.listing.units if each.timeline == unit.timeline]):
        if each.start < at <= each.end:
            at = each.start
    return at


# ---------------------------------------------------------------- laying


def refuse_without_space(made: MomentPlan, directory: Path) -> None:
    above = directory
    while not above.exists() and above != above.parent:
        above = above.parent
    needed, free = made.log_bytes + made.facts.size_bytes + SPARE_BYTES, shutil.disk_usage(above).free
    if free < needed:
        raise errors.TargetRefused(
            f"{above} has {free >> 20} MiB free, {needed >> 20} MiB are needed ({made.log_bytes >> 20} MiB for log)",
            "Free space, or name a directory on a larger file system.",
        )


def lay_log(made: MomentPlan, log: Log, engine: RestoreEngine, directory: Path, owner: tuple[int, int] | None) -> None:
    """Write the log below the data directory, over what the backup itself brought. Every byte is proven (R5); what lies
    behind the end stays zero."""
    for timeline, file, end in made.pieces:
        with _created(directory / file.path, owner) as descriptor:
            os.truncate(descriptor, file.size_bytes)
            at = 0
            for piece in log.read(timeline, file.position, end):
                at += _write(descriptor, piece, at)
            os.fsync(descriptor)
    for timeline in made.histories:
        with _created(directory / engine.history_path(timeline), owner) as descriptor:
            _write(descriptor, log.history(timeline), 0)
            os.fsync(descriptor)


class _created:
    """A new file in place of one of the same name; never through a link."""

    def __init__(self, place: Path, owner: tuple[int, int] | None) -> None:
        self._place, self._owner = place, owner

    def __enter__(self) -> int:
        try:
            self._place.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._descriptor = os.open(self._place, flags, 0o600)
            if self._owner:
                os.fchown(self._descriptor, *self._owner)
        except OSError as error:
            raise errors.StorageFailed(doing="write", name=str(self._place), reason=error.strerror) from error
        return self._descriptor

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        os.close(self._descriptor)
        if isinstance(error, OSError):
            raise errors.StorageFailed(doing="write", name=str(self._place), reason=error.strerror) from error


def _write(descriptor: int, data: bytes, at: int) -> int:
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, at)
        view, at = view[done:], at + done
    return len(data)
