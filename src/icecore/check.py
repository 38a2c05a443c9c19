"""The check, as a runbook: stored bytes are read and decoded, and each backup that was looked at keeps a note of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping

from icecore import __version__
from icecore.copying import Watch
from icecore.errors import BackupNotFound, WorldError
from icecore.evidence import Evidence, Examination, Outcome, ProofKind, bounded
from icecore.model import Phase
from icecore.repository import Checked, Repository


def run(repository: Repository, cluster_id: str, backup_id: str, number: str, watch: Watch) -> Evidence:
    """Check one backup whole. Errors: BackupNotFound, StorageFailed."""
    # An earlier run of this very job got as far as the note
    earlier = repository.one_evidence(cluster_id, backup_id, number, ProofKind.CHECK)
    if earlier is not None:
        return earlier

    # Every pack that it uses, byte by byte
    began_at = int(time.time())
    watch.phase(Phase.CHECKING)
    watch.step("checking")
    done_bytes = 0

    def advance(read_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += read_bytes
        watch.advance(done_bytes, 0)
        watch.step("checking")

    checked = repository.check(cluster_id, only=backup_id, advance=advance)
    if backup_id not in checked.backup_ids:
        raise BackupNotFound

    # The note
    facts = _consistent(repository, cluster_id)
    evidence = note_of(checked, backup_id, cluster_id, number, began_at, consistent_at=facts.get(backup_id, 0))
    evidence = repository.add_evidence(evidence)
    watch.step("evidence-kept")
    return evidence


def leave_notes(
    repository: Repository, cluster_id: str, checked: Checked, number: str, began_at: int, *, share: float
) -> list[Evidence]:
    """After a check of a whole cluster: one for each backup that was looked at. Those that cannot be written (a copy
    that may only be read) are not."""
    consistent = _consistent(repository, cluster_id)
    kept = []
    for backup_id in checked.backup_ids:
        note = note_of(
            checked,
            backup_id,
            cluster_id,
            number,
            began_at,
            share=share,
            consistent_at=consistent.get(backup_id, 0),
        )
        try:
            kept.append(repository.add_evidence(note))
        except BackupNotFound:
            continue  # deleted meanwhile
        except WorldError:
            break
    return kept


def note_of(
    checked: Checked,
    backup_id: str,
    cluster_id: str,
    number: str,
    began_at: int,
    *,
    share: float = 1.0,
    consistent_at: int,
) -> Evidence:
    faults = [f"{fault.name}: {fault.reason}" for fault in checked.faults if backup_id in fault.backup_ids]
    outcome = Outcome.FAILED if faults else Outcome.PASSED
    ended_at = int(time.time())
    return Evidence(
        kind=ProofKind.CHECK,
        number=number,
        backup_id=backup_id,
        cluster_id=cluster_id,
        outcome=outcome,
        consistent_at=consistent_at,
        started_at=began_at,
        ended_at=ended_at,
        host=socket.gethostname(),
        tool_version=__version__,
        share=share,
        read_bytes=checked.read_bytes,
        examinations=(
            Examination("bytes", outcome, checked.pack_count, "packs", float(ended_at - began_at), bounded(faults)),
        ),
    )


def _consistent(repository: Repository, cluster_id: str) -> Mapping[str, int]:
    """Of those whose manifest can be read."""
    return {facts.backup_id: facts.boundary.consistent_at for facts in repository.backups(cluster_id, damaged=[])}
