"""Evidence beside a backup: one small sealed object for each check or verification, written once.

::

    header    64   magic "ICEEVID1", repository id 16, salt 32, zeros 8
    facts     …    sealed at position 0, bound to header and name: Evidence as JSON

Named ``clusters/<cluster>/evidence/<backup>/<number>.<kind>``. No restore needs it; it goes after the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from icecore import evidence
from icecore.errors import BackupNotFound, Damaged, ObjectExists, ObjectMissing
from icecore.evidence import Evidence, ProofKind, bounded
from icecore.repository.fencing import absent
from icecore.repository.layout import ClusterLayout, below
from icecore.repository.pack import HEADER_BYTES, object_header, read_header
from icecore.repository.reader import get_whole
from icecore.repository.sealing import Keyring
from icecore.storage import Storage

EVIDENCE_MAGIC = b"ICEEVID1"
MAX_EVIDENCE_BYTES = 1 << 20


def add(storage: Storage, keyring: Keyring, layout: ClusterLayout, proof: Evidence) -> Evidence:
    """Keep it; gives what is kept: an earlier run of the same job may have left its own (R1). ``BackupNotFound`` when
    the backup is gone."""
    if absent(storage, layout.manifest(proof.backup_id)):
        raise BackupNotFound
    name = layout.proof(proof.backup_id, proof.number, proof.kind)
    header, salt = object_header(EVIDENCE_MAGIC, keyring)
    sealer = keyring.sealer("evidence", layout.cluster_id, salt)
    try:
        storage.put(name, [header, sealer.seal(0, _plain(proof), header + name.encode())])
    except ObjectExists:
        return read(storage, keyring, layout, name)
    return proof


def of_backup(
    storage: Storage,
    keyring: Keyring,
    layout: ClusterLayout,
    backup_id: str,
    damaged: list[Damaged] | None = None,
) -> Iterator[Evidence]:
    """Oldest first. What cannot be read raises ``Damaged``, or is put into ``damaged`` if that is given."""
    for _, found in below(storage, layout.proofs(backup_id)):
        try:
            yield read(storage, keyring, layout, found.name)
        except ObjectMissing:
            continue  # deleted since it was listed
        except Damaged as error:
            if damaged is None:
                raise
            damaged.append(error)


def one(
    storage: Storage, keyring: Keyring, layout: ClusterLayout, backup_id: str, number: str, kind: ProofKind
) -> Evidence | None:
    try:
        return read(storage, keyring, layout, layout.proof(backup_id, number, kind))
    except ObjectMissing:
        return None


def read(storage: Storage, keyring: Keyring, layout: ClusterLayout, name: str) -> Evidence:
    data = get_whole(storage, name, storage.size_bytes(name), MAX_EVIDENCE_BYTES)
    salt = read_header(data, EVIDENCE_MAGIC, keyring, name)
    sealer = keyring.sealer("evidence", layout.cluster_id, salt)
    plain = sealer.open(0, memoryview(data)[HEADER_BYTES:], data[:HEADER_BYTES] + name.encode(), name)
    try:
        found = evidence.from_dict(json.loads(plain))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(name=name, reason="its facts are malformed") from error
    if name != layout.proof(found.backup_id, found.number, found.kind):
        raise Damaged(name=name, reason="its facts are another backup's")
    return found


def remove(storage: Storage, layout: ClusterLayout, backup_id: str) -> None:
    """Everything kept of a backup whose manifest is gone."""
    for _, found in list(below(storage, layout.proofs(backup_id))):
        storage.delete(found.name)


def remove_orphans(storage: Storage, layout: ClusterLayout) -> None:
    """What a removal that was cut off left. Each manifest is asked for by its name: no listing is believed."""
    for backup_id in list(storage.folders(layout.evidence)):
        if absent(storage, layout.manifest(backup_id)):
            remove(storage, layout, backup_id)


def _plain(proof: Evidence) -> bytes:
    """Names of tables and databases are as long as their makers liked: counts go before all else does."""
    shown = replace(proof, examinations=tuple(replace(each, notes=bounded(each.notes)) for each in proof.examinations))
    plain = _json(shown)
    if len(plain) > MAX_EVIDENCE_BYTES // 2:
        plain = _json(replace(shown, examinations=tuple(replace(each, rows=()) for each in shown.examinations)))
    return plain


def _json(proof: Evidence) -> bytes:
    return json.dumps(evidence.to_dict(proof), separators=(",", ":")).encode()
