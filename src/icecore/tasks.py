"""What each kind of job does: joins a procedure with the catalog's facts about it.

A task may run several times, in this process or the next. ``run`` does the work and gives the write that makes it
visible; ``undo`` leaves nothing behind when the job fails or is cancelled; ``tidy`` follows success.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import structlog

from icecore import backup, errors, parts, restore
from icecore import config as home
from icecore.catalog import Catalog, clusters, jobs, queries
from icecore.catalog.jobs import Claim
from icecore.config import Config
from icecore.engines import RestoredServer, RestoreTarget, ServerPlace
from icecore.model import BackupFacts, BackupMode, JobKind, facts_from_dict, facts_to_dict
from icecore.watch import JobWatch

log = structlog.get_logger()

Finish = Callable[[], None]
START_TIMEOUT_S = 24 * 3600.0  # log replay of a large backup takes its time; the job can be cancelled
STOP_TIMEOUT_S = 60.0
SOCKET_PATH_BYTES = 100  # sun_path holds 108; the file name in it takes part of that


class Task(Protocol):
    def __init__(self, config: Config, catalog: Catalog, held: Claim, watch: JobWatch) -> None: ...
    def run(self) -> Finish: ...
    def undo(self) -> None: ...
    def tidy(self) -> None: ...


class _Base:
    def __init__(self, config: Config, catalog: Catalog, held: Claim, watch: JobWatch) -> None:
        self.config, self.catalog, self.held, self.watch = config, catalog, held, watch

    def undo(self) -> None: ...
    def tidy(self) -> None: ...


class BackupTask(_Base):
    def run(self) -> Finish:
        cluster = clusters.one(self.catalog, self.held.cluster_id)
        accepted = queries.backup(self.catalog, self.held.backup_id)
        order = backup.BackupOrder(
            backup_id=accepted.id,
            cluster_id=cluster.id,
            cluster_name=cluster.name,
            job_uuid=accepted.job_uuid,
            mode=BackupMode(accepted.mode),
            client_token=accepted.client_token,
            token_digest=accepted.token_digest,
            comment=accepted.comment,
        )
        engine = parts.engine(self.config, cluster.id, cluster.name, cluster.engine, cluster.dsn)
        with self._scratch() as scratch:
            done = backup.run(
                engine,
                parts.open_repository(self.config),
                order,
                self.watch,
                scratch=scratch,
                threads=self.config.threads,
            )
        return lambda: jobs.finish_backup(self.catalog, self.held, done.facts, done.new_bytes)

    def undo(self) -> None:
        """A manifest that slipped through goes first (the set was called failed), then the blocks nobody names."""
        with _best_effort("removing what a failed backup left"):
            repository = parts.open_repository(self.config)
            repository.delete_backup(self.held.cluster_id, self.held.backup_id)
            repository.collect(self.held.cluster_id)

    def tidy(self) -> None:
        """A run that was killed may have left packs that no index names."""
        if self.held.epoch > 1:
            with _best_effort("collecting what earlier runs left"):
                parts.open_repository(self.config).collect(self.held.cluster_id)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A directory of this job's own; what a killed run left in it goes first."""
        place = self.config.run / "scratch" / self.held.job_id
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True, mode=0o700)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


class RestoreTask(_Base):
    """A backup becomes a new, running cluster below the home."""

    def run(self) -> Finish:
        cluster = clusters.one(self.catalog, self.held.cluster_id)
        repository = parts.open_repository(self.config)
        reader = repository.reader(cluster.source_cluster_id, self.held.backup_id)
        engine = parts.restore_engine(cluster.engine)
        engine.check_server(reader.facts)
        place = server_place(self.config, cluster.id, port=_free_port())
        self._remove_directory()  # what a killed run left: the directory is this cluster's own
        for directory in (self._directory, place.socket_directory):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.chown(directory, *place.owner)
        _refuse_unreachable(place)
        target = RestoreTarget(place.data_directory, tablespace_places(reader.facts, self._directory / "tablespaces"))
        plan = restore.plan(reader, engine, target, owner=place.owner, block_bytes=repository.block_bytes)
        restore.run(plan, reader, engine, self.watch, threads=self.config.threads)
        # The note first: whoever cleans up after a kill must find the server that we are about to start
        server = engine.server(reader.facts, place)
        home.write_private(self._directory / "server.json", _place_json(reader.facts, place))
        self.watch.step("starting")
        server.start(START_TIMEOUT_S)
        self.watch.step("server-started")
        return lambda: jobs.finish_restore(self.catalog, self.held, dsn=server.dsn(), host="127.0.0.1", port=place.port)

    def undo(self) -> None:
        with _best_effort("removing what a failed restore left"):
            self._remove_directory()

    @property
    def _directory(self) -> Path:
        return self.config.cluster_directory(self.held.cluster_id)

    def _remove_directory(self) -> None:
        remove_cluster_directory(self.config, self.held.cluster_id)


class DeleteBackupTask(_Base):
    def run(self) -> Finish:
        repository = parts.open_repository(self.config)
        repository.delete_backup(self.held.cluster_id, self.held.backup_id)  # R6: manifest, then what only it used
        self.watch.step("manifest-removed")
        repository.collect(self.held.cluster_id)
        return lambda: jobs.finish_deletion(self.catalog, self.held)


class DeleteClusterTask(_Base):
    def run(self) -> Finish:
        cluster = clusters.one(self.catalog, self.held.cluster_id, also_removed=True)
        if cluster.origin == "restored":
            remove_cluster_directory(self.config, cluster.id)
        home.forget_password(self.config, cluster.id)
        return lambda: jobs.finish_cluster_removal(self.catalog, self.held)


TASKS: dict[JobKind, type[Task]] = {
    JobKind.BACKUP: BackupTask,
    JobKind.RESTORE: RestoreTask,
    JobKind.DELETE_BACKUP: DeleteBackupTask,
    JobKind.DELETE_CLUSTER: DeleteClusterTask,
}


# ---------------------------------------------------------------- restored servers below the home


def tablespace_places(facts: BackupFacts, directory: Path) -> dict[str, Path]:
    """Each tablespace of the backup gets a directory named by its oid below ``directory``."""
    return {link: directory / link.rpartition("/")[2] for link in restore.tablespaces(facts)}


def server_place(config: Config, cluster_id: str, *, port: int) -> ServerPlace:
    directory = config.cluster_directory(cluster_id)
    sockets = directory / "socket"
    if len(os.fsencode(sockets)) > SOCKET_PATH_BYTES - len(".s.PGSQL.65535.lock"):
        sockets = Path("/tmp") / f"icecore-{cluster_id}"
    return ServerPlace(
        data_directory=directory / "data",
        socket_directory=sockets,
        log_file=directory / "server.log",
        port=port,
        owner=server_owner(),
    )


def server_owner() -> tuple[int, int]:
    """Who runs restored servers: ourselves; as root (which no server accepts) the user ``ICECORE_SERVER_USER``,
    by default ``postgres``."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    name = os.environ.get("ICECORE_SERVER_USER", "postgres")
    try:
        user = pwd.getpwnam(name)
    except KeyError as error:
        raise errors.TargetRefused(
            f"there is no user {name} to run the restored server", hint="Set ICECORE_SERVER_USER."
        ) from error
    return user.pw_uid, user.pw_gid


def restored_server(config: Config, cluster_id: str) -> RestoredServer | None:
    """The server of a restored cluster, by the note beside it; None while there is none."""
    try:
        note = json.loads((config.cluster_directory(cluster_id) / "server.json").read_bytes())
    except (OSError, ValueError):
        return None
    facts = facts_from_dict(note["facts"])
    return parts.restore_engine(facts.engine).server(facts, server_place(config, cluster_id, port=note["port"]))


def remove_cluster_directory(config: Config, cluster_id: str) -> None:
    """Stop the server that runs in a restored cluster's directory, then remove the directory."""
    directory = config.cluster_directory(cluster_id)
    server = restored_server(config, cluster_id)
    if server is not None and server.running():
        server.stop(STOP_TIMEOUT_S)
    for place in (directory, server_place(config, cluster_id, port=0).socket_directory):
        if place.exists():
            shutil.rmtree(place)


def _place_json(facts: BackupFacts, place: ServerPlace) -> bytes:
    return json.dumps({"port": place.port, "facts": facts_to_dict(facts)}).encode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _refuse_unreachable(place: ServerPlace) -> None:
    """The server's user must be able to walk to its directory, which lies below the home."""
    uid, gid = place.owner
    for parent in place.data_directory.parent.parents:
        found = parent.stat()
        bit = 0o100 if found.st_uid == uid else 0o010 if found.st_gid == gid else 0o001
        if not found.st_mode & bit:
            raise errors.TargetRefused(
                f"the user that runs restored servers (uid {uid}) may not enter {parent}",
                hint="Put the home where that user may pass, such as /var/lib/icecore.",
            )


@contextlib.contextmanager
def _best_effort(doing: str) -> Iterator[None]:
    """For what a later run or collection does again; the job's own outcome must not hang on it."""
    try:
        yield
    except (errors.IcecoreError, OSError) as error:
        log.warning(f"{doing} failed", reason=str(error))
