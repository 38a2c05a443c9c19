"""The jobs that check a backup's bytes and that verify it. Both leave evidence with the backup in the repository."""

from __future__ import annotations

import os
from pathlib import Path

from icecore import check, errors, parts, pinned, verify
from icecore.catalog import jobs, proofs
from icecore.config import Config
from icecore.engines import Assertion
from icecore.evidence import Evidence, Outcome
from icecore.model import BackupFacts
from icecore.repository import Repository
from icecore.tasks import servers
from icecore.tasks.task import Finish, OneJob, best_effort


class CheckTask(OneJob):
    def run(self) -> Finish:
        repository = parts.open_repository(self.config)
        found = check.run(repository, self.held.cluster_id, self.held.backup_id, self.held.job_id, self.watch)
        if found.outcome is Outcome.FAILED:
            proofs.note(self.catalog, self.held, found)
            raise errors.Damaged(name=f"backup {self.held.backup_id}", reason="; ".join(found.failures()))
        return lambda: proofs.finish(self.catalog, self.held, found)


class VerifyTask(OneJob):
    """The source's server need not be up; nor need the cluster still be registered."""

    def run(self) -> Finish:
        found = self._verified()
        if found.outcome is Outcome.FAILED:
            proofs.note(self.catalog, self.held, found)
            raise errors.VerificationFailed(backup_id=self.held.backup_id, reason="; ".join(found.failures()))
        return lambda: proofs.finish(self.catalog, self.held, found)

    def undo(self) -> None:
        """Only what a killed run left: one that ends by itself takes everything with it."""
        with best_effort("removing what a verification left"):
            facts = self._facts(parts.open_repository(self.config))
            verify.clear(parts.restore_engine(facts.engine), facts, self._order(self.held.job_id))

    def _verified(self) -> Evidence:
        repository = parts.open_repository(self.config)
        try:
            facts = self._facts(repository)
        except errors.Damaged as error:
            return verify.unreadable(repository, self.held.cluster_id, self.held.backup_id, self.held.job_id, error)
        order = self._order(self.held.job_id)
        # The scratch stays ours; only what is in it belongs to the server's user, who must be able to walk there
        order.scratch.parent.mkdir(exist_ok=True)
        order.scratch.parent.chmod(0o711)
        servers.refuse_unreachable(order.scratch, *order.owner)
        self._sweep(order.scratch.parent, facts)
        with pinned.image_of(self.config, facts) as image:
            return verify.run(repository, facts, parts.restore_engine(facts.engine), order, self.watch, image=image)

    def _sweep(self, directory: Path, facts: BackupFacts) -> None:
        """Copies of jobs that nobody will take up again: their catalog was lost."""
        there = list(directory.iterdir())
        alive = jobs.unfinished(self.catalog)  # asked later: whose copy is there already was accepted before
        for left in there:
            if left.name not in alive:
                with best_effort("removing what an earlier verification left"):
                    verify.clear(parts.restore_engine(facts.engine), facts, self._order(left.name))

    def _facts(self, repository: Repository) -> BackupFacts:
        found = repository.has(self.held.cluster_id, self.held.backup_id)
        if found is None:
            raise errors.BackupNotFound
        return found

    def _order(self, job_id: str) -> verify.Verification:
        scratch = self.config.home / "verify" / job_id
        return verify.Verification(
            number=job_id,
            scratch=scratch,
            socket=socket_beside(scratch, job_id),
            owner=servers.server_owner(),
            threads=self.config.threads,
            assertions=assertions(self.config, self.held.cluster_id),
        )


def assertions_file(config: Config, cluster_id: str) -> Path:
    """What the operator says must hold in every copy of a cluster."""
    return config.home / "assertions" / f"{cluster_id}.toml"


def assertions(config: Config, cluster_id: str) -> tuple[Assertion, ...]:
    path = assertions_file(config, cluster_id)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.Refused(f"{path} cannot be read: {error}", hint="Mend the file.") from error
    return verify.read_assertions(text, str(path))


def socket_beside(scratch: Path, number: str) -> Path | None:
    """A directory for the socket elsewhere, where the scratch has too long a path for one; the engine makes it, 0700,
    and refuses a planted one."""
    longest = len(os.fsencode(scratch / "socket" / ".s.PGSQL.65535.lock"))
    return None if longest <= servers.SOCKET_PATH_BYTES else Path("/tmp") / f"icecore-verify-{number}"
