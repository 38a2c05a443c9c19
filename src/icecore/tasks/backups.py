"""The jobs that make a backup and remove one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from icecore import backup, errors, parts, pinned
from icecore.catalog import clusters, jobs, queries
from icecore.model import BackupMode, ClusterStatus
from icecore.tasks.task import Finish, OneJob, best_effort, remove_log_of


class BackupTask(OneJob):
    _plainly = False  # without an image: an earlier try had no room for one

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
        with self._scratch() as scratch, self._plainly_next_time():
            done = backup.run(
                engine,
                parts.open_repository(self.config),
                order,
                self.watch,
                scratch=scratch,
                threads=self.config.threads,
                images=self._note_images if self.config.images and not self._plainly else None,
                pace=self.watch.pace,
                laps=self.watch.laps,
                readers_at_most=self.config.readers_at_most,
            )

        def finish() -> None:
            jobs.finish_backup(self.catalog, self.held, done.facts, done.new_bytes)
            with best_effort("noting which image is kept"):
                if done.adopted:
                    pinned.drop_unfinished(self.config, cluster.id)  # of the run that wrote the manifest
                elif not done.image_parents:
                    pinned.let_go(self.config, self.catalog, cluster.id)  # an earlier one would pin more and more
                pinned.show(self.config, self.catalog, cluster.id)

        return finish

    @contextlib.contextmanager
    def _plainly_next_time(self) -> Iterator[None]:
        try:
            yield
        except errors.StorageFull:
            self._plainly = True
            raise

    def _note_images(self, parents: tuple[Path, ...]) -> None:
        pinned.note(self.config, self.held.cluster_id, parents)

    def undo(self) -> None:
        """A manifest that slipped through goes first (the set was called failed), then the blocks nobody names."""
        with best_effort("letting a killed run's image go"):
            pinned.drop_unfinished(self.config, self.held.cluster_id)
        with best_effort("removing what a failed backup left"):
            repository = parts.open_repository(self.config)
            repository.delete_backup(self.held.cluster_id, self.held.backup_id)
            repository.collect(self.held.cluster_id)

    def tidy(self) -> None:
        """A run that was killed may have left packs that no index names; what was deleted while this one ran could
        not be collected then."""
        owed = _owed(self.held.cluster_id)
        if self.held.epoch > 1 or self.catalog.marked(owed):
            with best_effort("collecting what earlier runs and deletions left"):
                self.catalog.unmark(owed)  # first: a deletion from here on marks it again
                try:
                    parts.open_repository(self.config).collect(self.held.cluster_id)
                except errors.IcecoreError:
                    self.catalog.mark(owed)
                    raise

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


class DeleteBackupTask(OneJob):
    def run(self) -> Finish:
        repository = parts.open_repository(self.config)
        repository.delete_backup(self.held.cluster_id, self.held.backup_id)  # R6: manifest, then what only it used
        self.watch.step("manifest-removed")
        with best_effort("letting its image go"):
            pinned.let_go_of(self.config, self.catalog, self.held.cluster_id, self.held.backup_id)
        with best_effort("letting its cluster's log go"):
            cluster = clusters.one(self.catalog, self.held.cluster_id, also_removed=True)
            if cluster.deleted_at is not None or cluster.status == ClusterStatus.DELETING:
                remove_log_of(repository, self.held.cluster_id, self.watch)
        # The backup is gone, whatever follows. Whoever holds the cluster by now looks for this mark when done
        self.catalog.mark(_owed(self.held.cluster_id))
        with best_effort("giving space back"), contextlib.suppress(errors.LeaseHeld):
            repository.collect(self.held.cluster_id)
            self.catalog.unmark(_owed(self.held.cluster_id))
        return lambda: jobs.finish_deletion(self.catalog, self.held)


def _owed(cluster_id: str) -> str:
    """The catalog's mark that something was deleted which was not collected yet."""
    return f"owed-collection-{cluster_id}"
