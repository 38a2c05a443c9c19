"""What each kind of job does: joins a procedure with the catalog's facts about it.

A task may run several times, in this process or the next. ``run`` does the work and gives the write that makes it
visible; ``undo`` leaves nothing behind when the job fails or is cancelled; ``tidy`` follows success.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import structlog

from icecore import backup, errors, parts, pinned, restore
from icecore import config as home
from icecore.catalog import Catalog, clusters, jobs, queries
from icecore.catalog.jobs import Claim
from icecore.config import Config
from icecore.engines import RestoredServer, RestoreTarget, ServerPlace
from icecore.model import BackupFacts, BackupMode, JobKind, facts_from_dict, facts_to_dict
from icecore.pace import Pace
from icecore.watch import JobWatch

log = structlog.get_logger()

Finish = Callable[[], None]
START_TIMEOUT_S = 24 * 3600.0  # log replay of a large backup takes its time; the job can be cancelled
RESTART_TIMEOUT_S = 300.0
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
                images=self._note_images if self.config.images else None,
                pace=Pace(self.config.max_rate_bytes_s, background=self.config.background),
            )

        def finish() -> None:
            jobs.finish_backup(self.catalog, self.held, done.facts, done.new_bytes)
            with _best_effort("noting which image is kept"):
                pinned.show(self.config, self.catalog, cluster.id)

        return finish

    def _note_images(self, parents: tuple[Path, ...]) -> None:
        pinned.note(self.config, self.held.cluster_id, parents)

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
        with server_lock(self.config, cluster.id):
            remove_cluster_directory(self.config, cluster.id)  # what a killed run left: it is this cluster's own
        owner = server_owner()
        target = RestoreTarget(
            self._directory / "data", tablespace_places(reader.facts, self._directory / "tablespaces")
        )
        # The cluster's own directory stays ours; only what is in it belongs to the server's user, who may not enter
        # before everything is in its place
        self._directory.parent.mkdir(mode=0o711, exist_ok=True)
        self._directory.mkdir(mode=0o700)
        _refuse_unreachable(self._directory, owner[0], owner[1])
        for name in ("socket", "log"):
            (self._directory / name).mkdir(mode=0o700)
            os.chown(self._directory / name, *owner)
        if target.tablespaces:
            (self._directory / "tablespaces").mkdir()
            (self._directory / "tablespaces").chmod(0o711)
        plan = restore.plan(reader, engine, target, owner=owner, block_bytes=repository.block_bytes)
        with pinned.image_of(self.config, cluster.source_cluster_id, self.held.backup_id) as image:
            restore.run(
                plan,
                reader,
                engine,
                self.watch,
                threads=self.config.threads,
                hand_over=lambda: self._directory.chmod(0o711),
                image=image,
            )
        # The port now, not hours ago; and the note first: who cleans up after a kill must find what we start
        place = server_place(self.config, cluster.id, port=_free_port())
        note_server(self.config, cluster.id, reader.facts, place.port)
        server = engine.server(reader.facts, place)
        self.watch.step("starting")
        server.prepare()
        server.start(START_TIMEOUT_S, lambda: self.watch.step("awaiting"))
        self.watch.step("server-started")
        return lambda: jobs.finish_restore(self.catalog, self.held, dsn=server.dsn(), host="127.0.0.1", port=place.port)

    def undo(self) -> None:
        with _best_effort("removing what a failed restore left"), server_lock(self.config, self.held.cluster_id):
            remove_cluster_directory(self.config, self.held.cluster_id)

    @property
    def _directory(self) -> Path:
        return self.config.cluster_directory(self.held.cluster_id)


class DeleteBackupTask(_Base):
    def run(self) -> Finish:
        repository = parts.open_repository(self.config)
        repository.delete_backup(self.held.cluster_id, self.held.backup_id)  # R6: manifest, then what only it used
        self.watch.step("manifest-removed")
        if queries.backup_was_imaged(self.catalog, self.held.backup_id):
            with _best_effort("letting its image go"):
                pinned.let_go(self.config, self.catalog, self.held.cluster_id)
        with _best_effort("giving space back"):  # the next collection does it; the backup is gone all the same
            repository.collect(self.held.cluster_id)
        return lambda: jobs.finish_deletion(self.catalog, self.held)


class DeleteClusterTask(_Base):
    def run(self) -> Finish:
        cluster = clusters.one(self.catalog, self.held.cluster_id, also_removed=True)
        if cluster.origin == "restored":
            with server_lock(self.config, cluster.id):
                remove_cluster_directory(self.config, cluster.id)
        with _best_effort("letting its images go"):
            pinned.let_go(self.config, self.catalog, cluster.id, unfinished=True)
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
        sockets = Path("/tmp") / f"icecore-{cluster_id}"  # the engine makes it, 0700, and refuses a planted one
    return ServerPlace(
        data_directory=directory / "data",
        socket_directory=sockets,
        log_file=directory / "log" / "server.log",
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


@contextlib.contextmanager
def server_lock(config: Config, cluster_id: str) -> Iterator[None]:
    """Held by whoever brings a restored server up again or removes it, in all processes."""
    directory = config.home / "servers"
    directory.mkdir(mode=0o700, exist_ok=True)
    with (directory / f"{cluster_id}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def note_server(config: Config, cluster_id: str, facts: BackupFacts, port: int) -> None:
    """Remember how to run a restored server. Not in its own directory: what lies there may be its user's doing."""
    (config.home / "servers").mkdir(mode=0o700, exist_ok=True)
    note = {"port": port, "facts": facts_to_dict(facts)}
    home.write_private(_note(config, cluster_id), json.dumps(note).encode())


def noted_server(config: Config, cluster_id: str) -> tuple[BackupFacts, int] | None:
    try:
        note = json.loads(_note(config, cluster_id).read_bytes())
        return facts_from_dict(note["facts"]), int(note["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def restored_server(config: Config, cluster_id: str) -> RestoredServer | None:
    """A handle to the server of a restored cluster; None while there is none. Touches nothing."""
    noted = noted_server(config, cluster_id)
    if noted is None:
        return None
    facts, port = noted
    return parts.restore_engine(facts.engine).server(facts, server_place(config, cluster_id, port=port))


def bring_up(config: Config, cluster_id: str, still_wanted: Callable[[], None]) -> RestoredServer | None:
    """Start a restored server that is down, at another port if its own was taken meanwhile. Under ``server_lock``.
    None when nothing was to be done."""
    noted = noted_server(config, cluster_id)
    server = restored_server(config, cluster_id)
    if noted is None or server is None or server.running():
        return None
    facts, port = noted
    if not _port_is_free(port):
        port = _free_port()
        note_server(config, cluster_id, facts, port)
        server = parts.restore_engine(facts.engine).server(facts, server_place(config, cluster_id, port=port))
    server.prepare()
    server.start(RESTART_TIMEOUT_S, still_wanted)
    return server


def remove_cluster_directory(config: Config, cluster_id: str) -> None:
    """Stop the server that runs in a restored cluster's directory, then remove the directory, its note last: killed
    anywhere, it can be done again. Under ``server_lock``."""
    server = restored_server(config, cluster_id)
    if server is not None and server.running():
        server.stop(STOP_TIMEOUT_S)
    for place in (config.cluster_directory(cluster_id), server_place(config, cluster_id, port=0).socket_directory):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
    _note(config, cluster_id).unlink(missing_ok=True)


def _note(config: Config, cluster_id: str) -> Path:
    return config.home / "servers" / f"{cluster_id}.json"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _refuse_unreachable(directory: Path, uid: int, gid: int) -> None:
    """The server's user must be able to walk to its directory, which lies below the home."""
    for parent in directory.parents:
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
    except Exception as error:
        log.warning(f"{doing} failed", reason=str(error), kind=type(error).__name__)
