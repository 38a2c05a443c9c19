"""The verification, as a runbook: a backup is really restored, started, queried all over and thrown away, and what was
found is kept with it in the repository.

Knows no catalog and no HTTP; the source's server is not asked for anything. It may be killed anywhere and run again
with the same number: what the killed run left goes first, and evidence that it had written is what counts.

What fails is the backup's fault or the world's. A damaged block, a server that does not come up, an index that
contradicts its table: evidence, with the outcome *failed*. No space, no programs of that major, a cancel: an error, and
no evidence of anything.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from icecore import __version__, errors, restore
from icecore.copying import Watch
from icecore.engines import Assertion, RestoredServer, RestoreEngine, RestoreTarget, ServerPlace
from icecore.evidence import Evidence, Examination, Outcome, ProofKind, bounded, outcome_of
from icecore.images import KeptImage
from icecore.model import BackupFacts, Phase
from icecore.repository import Reader, Repository

START_TIMEOUT_S = 24 * 3600.0  # log replay of a large backup takes its time; the job can be cancelled
STOP_TIMEOUT_S = 600.0
COUNT_ROWS_FOR_S = 1800.0
SESSIONS_AT_MOST = 4
PORT = 5432  # names the socket: in a directory of its own, and nothing listens on the network


@dataclass(frozen=True)
class Verification:
    """What is to be done. ``number``: names the evidence, digits. ``scratch``: a directory of this verification's own,
    which its server's user can reach; a second one for the socket, where the first one's path is too long for it.
    ``owner``: uid and gid that run the server."""

    number: str
    scratch: Path
    owner: tuple[int, int]
    threads: int
    socket: Path | None = None
    assertions: tuple[Assertion, ...] = ()
    count_rows_for_s: float = COUNT_ROWS_FOR_S

    @property
    def place(self) -> ServerPlace:
        return ServerPlace(
            data_directory=self.scratch / "data",
            socket_directory=self.socket or self.scratch / "socket",
            log_file=self.scratch / "log" / "server.log",
            port=PORT,
            owner=self.owner,
            sealed_off=True,
        )


@dataclass
class _Found:
    """What is known so far."""

    image: _CountedImage | None
    began_at: int = field(default_factory=lambda: int(time.time()))
    restore_s: float = 0.0
    start_s: float = 0.0
    version: str = ""
    examinations: list[Examination] = field(default_factory=list)

    def failed(self, name: str, error: errors.IcecoreError, began: float) -> None:
        took_s = round(time.monotonic() - began, 1)
        self.examinations.append(Examination(name, Outcome.FAILED, took_s=took_s, notes=bounded([error.message])))


def run(
    repository: Repository,
    facts: BackupFacts,
    engine: RestoreEngine,
    order: Verification,
    watch: Watch,
    *,
    image: KeptImage | None = None,
) -> Evidence:
    """Verify one backup. Errors: TargetRefused, StorageFailed, StorageFull, EngineFailed (it does not stop)."""
    # An earlier run of this very job got as far as the evidence
    earlier = repository.one_evidence(facts.cluster_id, facts.backup_id, order.number, ProofKind.VERIFY)
    clear(engine, facts, order)
    if earlier is not None:
        return earlier

    # Refuse what cannot be done here, before the first byte is written
    watch.phase(Phase.PREPARING, facts.size_bytes)
    watch.step("scratch-cleared")
    engine.check_server(facts)
    found = _Found(_CountedImage(image) if image is not None else None)
    try:
        # The backup as files, from its image where blocks can be shared, else from the repository
        if _restored(repository, facts, engine, order, watch, found):
            server = engine.server(facts, order.place)

            # A server on a socket of its own: it replays the log, and is asked everywhere
            if _started(server, watch, found):
                watch.step("server-started")
                _examined(server, order, watch, found)
                watch.step("examined")

            # Stopped, so that what it wrote is on disk: every page against its checksum
            server.stop(STOP_TIMEOUT_S)
            watch.step("server-stopped")
            if found.version:
                found.examinations.append(server.examine_pages(lambda: watch.step("rereading")))
                watch.step("pages-read")
    finally:
        # Whatever came of it: nothing stays but the evidence
        clear(engine, facts, order)
    evidence = repository.add_evidence(_evidence(facts, order, found))
    watch.step("evidence-kept")
    return evidence


def unreadable(repository: Repository, cluster_id: str, backup_id: str, number: str, error: errors.Damaged) -> Evidence:
    """Evidence of a backup of which not even the facts can be read."""
    now = int(time.time())
    failed = Examination("restore", Outcome.FAILED, notes=bounded([error.message]))
    return repository.add_evidence(
        Evidence(
            ProofKind.VERIFY,
            number,
            backup_id,
            cluster_id,
            Outcome.FAILED,
            0,
            now,
            now,
            socket.gethostname(),
            __version__,
            examinations=(failed,),
        )
    )


def clear(engine: RestoreEngine, facts: BackupFacts, order: Verification) -> None:
    """End the server that an earlier run left and remove what it laid down. Nothing happens where there is nothing."""
    place = order.place
    server = engine.server(facts, place)
    if server.running():
        server.stop(STOP_TIMEOUT_S)
    for directory in (order.scratch, place.socket_directory):
        if directory.is_dir() and not directory.is_symlink():
            shutil.rmtree(directory)


# ---------------------------------------------------------------- steps


def _restored(
    repository: Repository, facts: BackupFacts, engine: RestoreEngine, order: Verification, watch: Watch, found: _Found
) -> bool:
    """Lay the backup down. False, and a failed examination, when the repository does not give it."""
    began = time.monotonic()
    try:
        reader: Reader = repository.reader(facts.cluster_id, facts.backup_id)
        spaces = {link: order.scratch / "tablespaces" / link.rpartition("/")[2] for link in restore.tablespaces(facts)}
        target = RestoreTarget(order.scratch / "data", spaces)
        _make_scratch(order, bool(spaces))
        owner = order.owner if os.geteuid() == 0 else None
        plan = restore.plan(reader, engine, target, owner=owner, block_bytes=repository.block_bytes)
        restore.run(
            plan,
            reader,
            engine,
            watch,
            threads=order.threads,
            hand_over=lambda: order.scratch.chmod(0o711),
            image=cast("KeptImage | None", found.image),
        )
    except errors.Damaged as error:
        found.failed("restore", error, began)
        return False
    found.restore_s = round(time.monotonic() - began, 1)
    found.examinations.append(
        Examination("restore", Outcome.PASSED, facts.file_count, "files", found.restore_s, notes=_way(found.image))
    )
    watch.step("laid-down")
    return True


def _make_scratch(order: Verification, with_tablespaces: bool) -> None:
    """Ours and closed until everything is in its place; only what is in it belongs to the server's user."""
    order.scratch.mkdir(mode=0o700)
    for name in ("socket", "log"):
        (order.scratch / name).mkdir(mode=0o700)
        os.chown(order.scratch / name, *order.owner)
    if with_tablespaces:
        (order.scratch / "tablespaces").mkdir()
        (order.scratch / "tablespaces").chmod(0o711)


def _started(server: RestoredServer, watch: Watch, found: _Found) -> bool:
    began = time.monotonic()
    watch.step("starting")
    server.prepare()
    try:
        server.start(START_TIMEOUT_S, lambda: watch.step("awaiting"))
        found.version = server.version()
    except (errors.EngineFailed, errors.EngineUnreachable) as error:
        found.failed("start", error, began)
        return False
    found.start_s = round(time.monotonic() - began, 1)
    found.examinations.append(Examination("start", Outcome.PASSED, 1, "server", found.start_s))
    return True


def _examined(server: RestoredServer, order: Verification, watch: Watch, found: _Found) -> None:
    began = time.monotonic()
    try:
        found.examinations.extend(
            server.examine(
                order.assertions,
                threads=min(order.threads, SESSIONS_AT_MOST),
                count_for_s=order.count_rows_for_s,
                still_wanted=lambda: watch.step("examining"),
            )
        )
    except (errors.EngineUnreachable, errors.EngineFailed) as error:
        found.failed("server", error, began)


def _way(image: _CountedImage | None) -> tuple[str, ...]:
    if image is None or not image.laid_bytes:
        return ("all of it was read from the repository",)
    return (f"{image.laid_bytes} bytes came from the backup's image, the rest from the repository",)


def _evidence(facts: BackupFacts, order: Verification, found: _Found) -> Evidence:
    return Evidence(
        kind=ProofKind.VERIFY,
        number=order.number,
        backup_id=facts.backup_id,
        cluster_id=facts.cluster_id,
        outcome=outcome_of(found.examinations),
        consistent_at=facts.boundary.consistent_at,
        started_at=found.began_at,
        ended_at=int(time.time()),
        host=socket.gethostname(),
        tool_version=__version__,
        server_version=found.version,
        restored_bytes=facts.size_bytes,
        image_bytes=found.image.laid_bytes if found.image is not None else 0,
        restore_s=found.restore_s,
        start_s=found.start_s,
        examinations=tuple(found.examinations),
    )


class _CountedImage:
    """An image that remembers how much of a restore came from it."""

    def __init__(self, image: KeptImage) -> None:
        self._image = image
        self.laid_bytes = 0

    def lay(self, path: str, onto: int, size_bytes: int) -> bool:
        laid = self._image.lay(path, onto, size_bytes)
        self.laid_bytes += size_bytes if laid else 0
        return laid


# ---------------------------------------------------------------- assertions


def read_assertions(text: str, name: str) -> tuple[Assertion, ...]:
    """``[[assertion]]`` tables of TOML with ``name``, ``database`` and ``query``. ``Refused`` says what is wrong;
    ``name``: of the file, for that."""

    def refuse(reason: str) -> errors.Refused:
        return errors.Refused(
            f"{name}: {reason}", hint="It holds [[assertion]] tables with name, database and query: docs/verify.md."
        )

    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise refuse(f"it is not TOML: {error}") from error
    tables = found.get("assertion", [])
    if set(found) - {"assertion"} or not isinstance(tables, list):
        raise refuse("it holds something else than [[assertion]]")
    assertions = [_assertion(each, refuse) for each in tables]
    _refuse_twins(assertions, refuse)
    return tuple(assertions)


def _assertion(found: object, refuse: Callable[[str], errors.Refused]) -> Assertion:
    wanted = ("name", "database", "query")
    if not isinstance(found, dict) or set(found) != set(wanted):
        raise refuse("an assertion has a name, a database and a query, and nothing else")
    for key in wanted:
        if not isinstance(found[key], str) or not found[key].strip():
            raise refuse(f"the {key} of an assertion is empty or no text")
    return Assertion(found["name"].strip(), found["database"], found["query"])


def _refuse_twins(assertions: Sequence[Assertion], refuse: Callable[[str], errors.Refused]) -> None:
    names = [each.name for each in assertions]
    for name in names:
        if names.count(name) > 1:
            raise refuse(f"two assertions are called {name!r}")
