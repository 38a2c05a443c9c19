"""The restore, as a runbook: a backup's files into an empty directory that a server can start on.

Knows no catalog and no HTTP: it works on a machine with nothing but the package, the repository and its key.
Everything that could refuse is asked in ``plan``, before the first byte is written; until the very last file is in
place the directory cannot be started as a server.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from icecore import errors
from icecore.copying import Watch
from icecore.engines import RestoreEngine, RestoreTarget
from icecore.images import KeptImage
from icecore.laps import Laps
from icecore.laying import TABLESPACES, Layer, RestorePlan, Staged, content, make_directory
from icecore.model import BackupFacts, Phase
from icecore.repository import Reader, StoredFile


def plan(
    reader: Reader,
    engine: RestoreEngine,
    target: RestoreTarget,
    *,
    owner: tuple[int, int] | None,
    block_bytes: int,
) -> RestorePlan:
    """Check everything that can be checked. Raises TargetRefused; writes nothing."""
    engine.check_target(reader.facts, target)
    refuse_without_places(reader.facts, target)
    return RestorePlan(reader.facts, target, owner, block_bytes)


def refuse_without_places(facts: BackupFacts, target: RestoreTarget) -> None:
    missing = [path for path in tablespaces(facts) if path not in target.tablespaces]
    if missing:
        raise errors.TargetRefused(
            f"no place was given for tablespace {missing[0]}", hint="Name one: --tablespace OID=DIR."
        )


def tablespaces(facts: BackupFacts) -> list[str]:
    """The link paths of a backup's tablespaces, such as ``pg_tblspc/16384``."""
    return [f"{TABLESPACES}{space['oid']}" for space in facts.engine_facts.get("tablespaces", ())]


def run(
    restore: RestorePlan,
    reader: Reader,
    engine: RestoreEngine,
    watch: Watch,
    *,
    threads: int,
    hand_over: Callable[[], None] = lambda: None,
    image: KeptImage | None = None,
    laps: Laps | None = None,
    readers_at_most: int = 0,
    more: Callable[[], None] = lambda: None,
    durable: bool = True,
) -> None:
    """Carry out a plan. Afterwards the directory can be started and, unless that is not asked for, is durable.

    ``image``: of this very backup, if there is one. What it has on the target's own file system is cloned and not
    written: its bytes are those that the backup was made from, unless the disk changed them since; the engine's own
    page checksums tell.

    Where root restores for another user, the directories stay root's and closed until everything that we write by path
    is written, for who may enter could lead us astray by a planted link. ``hand_over``: the caller's own part of that.
    ``more``: what it writes into the directory itself, such as further log.

    Errors: Damaged (a stored byte is wrong: nothing wrong was delivered as right), StorageFailed, StorageFull.
    """
    # The directories
    watch.phase(Phase.PREPARING, restore.facts.size_bytes)
    for place in _tops(restore):
        make_directory(place, 0o700, None)
    watch.step("directories-made")
    fill(
        restore,
        reader,
        engine,
        watch,
        Layer(restore, reader, watch, threads, image, laps, readers_at_most),
        hand_over,
        more,
        durable,
    )


def fill(
    restore: RestorePlan,
    reader: Reader,
    engine: RestoreEngine,
    watch: Watch,
    layer: Layer,
    hand_over: Callable[[], None] = lambda: None,
    more: Callable[[], None] = lambda: None,
    durable: bool = True,
) -> None:
    """The part of a restore that is the same whatever was there before: directories that nobody else can enter, and
    whose last files are not in place, become startable and their owner's."""
    # Every file but the last ones, in several threads
    watch.phase(Phase.UPLOADING, restore.facts.size_bytes)
    last: list[StoredFile] = []
    layer.lay(file for file in reader.files() if not _kept_for_later(file, engine, last))
    more()
    watch.step("files-laid")

    # The files without which no server starts: guarded, and under another name for now
    staged = []
    for file in last:
        guarded = engine.guarded(file.meta.path, content(file, reader))
        staged.append(Staged(layer.place(file.meta.path), guarded, file.meta.mode, restore.owner))
    for place in _tops(restore):
        if restore.owner:
            os.chown(place, *restore.owner, follow_symlinks=False)
    hand_over()

    # Links, empty directories, signals and settings; the tree is made durable
    watch.phase(Phase.CHECKING, restore.facts.size_bytes)
    engine.finish_files(restore.facts, restore.target, durable=durable)
    watch.step("files-finished")

    # Now the last ones get their names
    for each in staged:
        each.give_name()
    watch.step("restored")


def _tops(restore: RestorePlan) -> tuple[Path, ...]:
    return (restore.target.data_directory, *restore.target.tablespaces.values())


def _kept_for_later(file: StoredFile, engine: RestoreEngine, last: list[StoredFile]) -> bool:
    if file.meta.path not in engine.last_paths():
        return False
    last.append(file)
    return True
