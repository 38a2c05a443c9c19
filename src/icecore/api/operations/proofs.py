"""Checks and verifications on the wire."""

from __future__ import annotations

from typing import Any

from icecore.api.contract import Call
from icecore.api.operations import Context, Result
from icecore.catalog import intents, proofs, queries
from icecore.evidence import Evidence, Examination, ProofKind
from icecore.model import JobKind


def verify_backup(context: Context, call: Call) -> Result:
    return _accept(context, call, JobKind.VERIFY)


def check_backup(context: Context, call: Call) -> Result:
    return _accept(context, call, JobKind.CHECK)


def describe_backup_evidence(context: Context, call: Call) -> Result:
    backup = queries.backup(context.catalog, call.params["backup_id"])
    found = proofs.of_backup(context.catalog, backup.id, call.params["max_results"])
    return {"items": {"evidence": [as_result(each) for each in found]}}


def badges(row: Any) -> Result:
    """What a backup's row says of its newest check and verification."""
    return {
        "checked_time": row.checked_at,
        "check_outcome": row.check_outcome or None,
        "verified_time": row.verified_at,
        "verify_outcome": row.verify_outcome or None,
    }


def _accept(context: Context, call: Call, kind: JobKind) -> Result:
    backup_id = call.params["backup_id"]
    job_id = intents.accept_proof(
        context.catalog, kind, backup_id, token=call.params["client_token"] or "", request={"backup_id": backup_id}
    )
    return {"job_id": job_id}  # C1


def as_result(found: Evidence) -> Result:
    """One entry of DescribeBackupEvidence."""
    shown: Result = {
        "evidence_id": found.number,
        "kind": found.kind,
        "outcome": found.outcome,
        "consistent_time": found.consistent_at,
        "start_time": found.started_at,
        "end_time": found.ended_at,
        "host": found.host,
        "tool_version": found.tool_version,
        "examinations": [_examination(each) for each in found.examinations],
    }
    if found.kind is ProofKind.CHECK:
        return shown | {"share_percent": round(found.share * 100), "read_bytes": found.read_bytes}
    return shown | {
        "server_version": found.server_version or None,
        "restored_bytes": found.restored_bytes,
        "image_bytes": found.image_bytes,
        "restore_ms": round(found.restore_s * 1000),
        "start_ms": round(found.start_s * 1000),
    }


def _examination(found: Examination) -> Result:
    return {
        "name": found.name,
        "outcome": found.outcome,
        "count": found.count,
        "of": found.of,
        "took_ms": round(found.took_s * 1000),
        "notes": found.notes,
        "rows": [{"name": name, "count": count} for name, count in found.rows],
    }
