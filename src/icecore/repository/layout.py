"""Names of the objects in a repository.

::

    repository  key                       what this is; the wrapped data key
    clusters/<cluster>/packs/<hash>       R1: named by their hash
    clusters/<cluster>/indexes/<hash>
    clusters/<cluster>/manifests/<backup> R4: the backup exists iff this does
    clusters/<cluster>/log/               the continuous log: see ``log``
    clusters/<cluster>/evidence/<backup>/ what checks and verifications found; goes after its manifest
    clusters/<cluster>/history/           marks that outlive their backup: `began`, `<backup>.made`, `<backup>.gone`
    clusters/<cluster>/epochs/<n>         who has the cluster; condemned/<n>-<k>: packs that are about to go
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from icecore.errors import Usage
from icecore.storage import Storage, StoredObject, valid_segment

REPOSITORY, KEY = "repository", "key"
CLUSTERS = "clusters/"
LONGEST_ID = 200  # leaves room for a suffix within a file system's 255 bytes


def checked_id(text: str, what: str) -> str:
    """A cluster's or backup's id as it may stand in a name."""
    if not valid_segment(text) or len(text) > LONGEST_ID:
        raise Usage(reason=f"{text!r} cannot be a {what}: at most {LONGEST_ID} of a-z, 0-9, dot, dash, underscore")
    return text


@dataclass(frozen=True)
class ClusterLayout:
    cluster_id: str

    def __post_init__(self) -> None:
        checked_id(self.cluster_id, "cluster id")

    @property
    def root(self) -> str:
        return f"{CLUSTERS}{self.cluster_id}/"

    @property
    def lease(self) -> str:
        return CLUSTERS + self.cluster_id

    @property
    def packs(self) -> str:
        return self.root + "packs/"

    @property
    def indexes(self) -> str:
        return self.root + "indexes/"

    @property
    def manifests(self) -> str:
        return self.root + "manifests/"

    @property
    def history(self) -> str:
        return self.root + "history/"

    @property
    def log(self) -> str:
        return self.root + "log/"

    @property
    def log_lease(self) -> str:
        return "logs/" + self.cluster_id

    @property
    def evidence(self) -> str:
        return self.root + "evidence/"

    @property
    def epochs(self) -> str:
        return self.root + "epochs/"

    def epoch(self, number: int) -> str:
        return f"{self.epochs}{number:020d}"

    @property
    def condemned(self) -> str:
        return self.root + "condemned/"

    def pack(self, pack_id: bytes) -> str:
        return self.packs + pack_id.hex()

    def manifest(self, backup_id: str) -> str:
        return self.manifests + checked_id(backup_id, "backup id")

    def made(self, backup_id: str) -> str:
        return f"{self.history}{backup_id}.made"

    def gone(self, backup_id: str) -> str:
        return f"{self.history}{backup_id}.gone"

    def proofs(self, backup_id: str) -> str:
        return f"{self.evidence}{checked_id(backup_id, 'backup id')}/"

    def proof(self, backup_id: str, number: str, kind: str) -> str:
        return f"{self.proofs(backup_id)}{checked_id(number, 'number')}.{kind}"

    @property
    def began(self) -> str:
        return self.history + "began"


def below(storage: Storage, prefix: str) -> Iterator[tuple[str, StoredObject]]:
    """Objects right below ``prefix`` with the last part of their name."""
    for found in storage.list(prefix):
        last = found.name[len(prefix) :]
        if "/" not in last:
            yield last, found
