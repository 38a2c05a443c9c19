"""The jobs that make a new cluster of a backup and remove a cluster."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from icecore import config as home
from icecore import errors, moments, parts, pinned, restore
from icecore.catalog import clusters, intents, jobs, logs
from icecore.engines import LogEngine, RestoreEngine, RestoreTarget
from icecore.repository import Reader, Repository
from icecore.tasks import servers
from icecore.tasks.task import LOG_LET_GO_S, Finish, OneJob, best_effort, remove_log_of

START_TIMEOUT_S = 24 * 3600.0  # log replay of a large backup takes its time; the job can be cancelled


class RestoreTask(OneJob):
    """A backup becomes a new, running cluster below the home."""

    def run(self) -> Finish:
        cluster = clusters.one(self.catalog, self.held.cluster_id)
        repository = parts.open_repository(self.config)
        engine = parts.restore_engine(cluster.engine)
        made = self._moment(cluster, repository, engine)
        reader = repository.reader(
            cluster.source_cluster_id, made.facts.backup_id if made is not None else self.held.backup_id
        )
        engine.check_server(reader.facts)
        with servers.server_lock(self.config, cluster.id):
            servers.remove_cluster_directory(self.config, cluster.id)  # a killed run's: it is this cluster's own
        owner = servers.server_owner()
        # The cluster's own directory stays ours; only what is in it belongs to the server's user, who may not enter
        # before everything is in its place
        self.directory.parent.mkdir(mode=0o711, exist_ok=True)
        self.directory.mkdir(mode=0o700)
        servers.refuse_unreachable(self.directory, owner[0], owner[1])
        for name in ("socket", "log"):
            (self.directory / name).mkdir(mode=0o700)
            os.chown(self.directory / name, *owner)
        self.lay(cluster, repository, reader, engine, owner, made)
        # The port now, not hours ago; and the note first: who cleans up after a kill must find what we start
        place = servers.server_place(self.config, cluster.id, port=servers.free_port())
        servers.note_server(self.config, cluster.id, reader.facts, place.port)
        server = engine.server(reader.facts, place)
        self.watch.step("starting")
        server.prepare()
        server.start(START_TIMEOUT_S, lambda: self.watch.step("awaiting"))
        self.watch.step("server-started")
        return lambda: jobs.finish_restore(self.catalog, self.held, dsn=server.dsn(), host="127.0.0.1", port=place.port)

    def lay(
        self,
        cluster: Any,
        repository: Repository,
        reader: Reader,
        engine: RestoreEngine,
        owner: tuple[int, int],
        made: moments.MomentPlan | None,
    ) -> None:
        """The files, below the cluster's own directory."""
        target = RestoreTarget(
            self.directory / "data",
            servers.tablespace_places(reader.facts, self.directory / "tablespaces"),
            made.target if made is not None else None,
        )

        def lay_log() -> None:
            if made is not None:
                log = repository.log(cluster.source_cluster_id)
                moments.lay_log(made, log, engine, target.data_directory, owner)

        if target.tablespaces:
            (self.directory / "tablespaces").mkdir()
            (self.directory / "tablespaces").chmod(0o711)
        plan = restore.plan(reader, engine, target, owner=owner, block_bytes=repository.block_bytes)
        with pinned.image_of(self.config, reader.facts) as image:
            restore.run(
                plan,
                reader,
                engine,
                self.watch,
                threads=self.config.threads,
                hand_over=lambda: self.directory.chmod(0o711),
                image=image,
                laps=self.watch.laps,
                more=lay_log,
                readers_at_most=self.config.readers_at_most,
            )

    def _moment(self, cluster: Any, repository: Repository, engine: RestoreEngine) -> moments.MomentPlan | None:
        """Where recovery ends if the cluster is made of a moment; None: at a backup's own end."""
        moment = intents.moment_of(cluster.clone_point)
        if moment is None:
            return None
        made = moments.plan(repository, cluster.source_cluster_id, engine, moment_us=moment * 1_000_000)
        moments.refuse_without_space(made, self.config.home)
        return made

    def undo(self) -> None:
        with best_effort("removing what a failed restore left"), servers.server_lock(self.config, self.held.cluster_id):
            servers.remove_cluster_directory(self.config, self.held.cluster_id)

    @property
    def directory(self) -> Path:
        return self.config.cluster_directory(self.held.cluster_id)


class DeleteClusterTask(OneJob):
    def run(self) -> Finish:
        cluster = clusters.one(self.catalog, self.held.cluster_id, also_removed=True)
        if cluster.origin != "registered":
            with servers.server_lock(self.config, cluster.id):
                servers.remove_cluster_directory(self.config, cluster.id, self.watch.step)
        with best_effort("letting its images go"):
            pinned.let_go(self.config, self.catalog, cluster.id, unfinished=True)
        # Apart: a server that cannot be reached any more keeps nothing here
        with best_effort("dropping the slot of its log backup"):
            self._drop_slot(cluster)
        with best_effort("letting its log go"):
            remove_log_of(parts.open_repository(self.config), cluster.id, self.watch)
        home.forget_password(self.config, cluster.id)
        return lambda: jobs.finish_cluster_removal(self.catalog, self.held)

    def _drop_slot(self, cluster: Any) -> None:
        """The server keeps no log for us any more."""
        engine = parts.engine(self.config, cluster.id, cluster.name, cluster.engine, cluster.dsn)
        if logs.state(self.catalog, cluster.id) is not None and isinstance(engine, LogEngine) and cluster.dsn:
            deadline = time.monotonic() + LOG_LET_GO_S
            while True:
                try:
                    engine.forget_log(cluster.id)
                    break
                except errors.EngineFailed:  # still received: the archiver sees within seconds that the cluster goes
                    if time.monotonic() >= deadline:
                        raise
                    self.watch.pause(0.5)
            logs.forgotten(self.catalog, cluster.id)
