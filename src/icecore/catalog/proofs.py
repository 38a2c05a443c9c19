"""What checks and verifications found: the catalog's copy of the evidence that the repository keeps with a backup."""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa

from icecore import evidence
from icecore.catalog import Catalog, tables
from icecore.catalog.intents import end_job
from icecore.catalog.jobs import Claim, held_row
from icecore.evidence import Evidence, Outcome, ProofKind
from icecore.model import JobState


def finish(catalog: Catalog, held: Claim, found: Evidence) -> None:
    """What a job found becomes visible, and the job ends."""
    with catalog.write() as tx:
        row = held_row(tx, held)
        _put(tx, found)
        end_job(tx, row, JobState.SUCCEEDED, None)


def note(catalog: Catalog, held: Claim, found: Evidence) -> None:
    """The same for a job that goes on to fail over it."""
    with catalog.write() as tx:
        held_row(tx, held)
        _put(tx, found)


def take_back(catalog: Catalog, found: Sequence[Evidence]) -> None:
    """Evidence that was read from the repository, of backups that the catalog knows."""
    for start in range(0, len(found), 100):
        with catalog.write() as tx:
            for each in found[start : start + 100]:
                _put(tx, each)


def of_backup(catalog: Catalog, backup_id: str, limit: int) -> list[Evidence]:
    """Newest first."""
    p = tables.proof.c
    query = sa.select(p.evidence).where(p.backup_id == backup_id).order_by(p.ended_at.desc(), p.number.desc())
    with catalog.read() as tx:
        return [evidence.from_dict(json.loads(text)) for text in tx.execute(query.limit(limit)).scalars()]


def _put(tx: sa.Connection, found: Evidence) -> None:
    """Once, however often it is told; an older one does not take a newer one's place on the backup. Nor is a backup
    called checked of which a share was read, unless that was damaged."""
    p, b = tables.proof.c, tables.backup.c
    key = {"backup_id": found.backup_id, "number": found.number, "kind": found.kind}
    if not tx.execute(sa.select(p.number).where(*(p[name] == value for name, value in key.items()))).first():
        text = json.dumps(evidence.to_dict(found), separators=(",", ":"))
        tx.execute(sa.insert(tables.proof).values(**key, ended_at=found.ended_at, evidence=text))
    if found.kind is ProofKind.CHECK and found.share < 1 and found.outcome is Outcome.PASSED:
        return
    at, outcome = (
        ("verified_at", "verify_outcome") if found.kind is ProofKind.VERIFY else ("checked_at", "check_outcome")
    )
    tx.execute(
        sa.update(tables.backup)
        .where(b.id == found.backup_id, sa.func.coalesce(b[at], 0) <= found.ended_at)
        .values(**{at: found.ended_at, outcome: found.outcome})
    )
