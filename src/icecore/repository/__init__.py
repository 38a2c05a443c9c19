"""The repository: backups as blocks, packs, indexes and manifests over dumb storage. ``docs/repository-format.md``.

::

    with repo.writer(cluster_id) as writer:
        ids = writer.add_block(data), …      from several threads
        writer.finish_blocks()               packs durable (R2), index durable (R3)
        writer.check()                       what the backup relies on is there and decodes (R7)
        writer.commit(facts, files)          the manifest, create-only, last (R4)

    reader = repo.reader(cluster_id, backup_id)
    for file in reader.files(): … reader.block(id)      every byte proven (R5)

``add_evidence`` keeps what a check or a verification found. ``delete_backup`` removes a manifest; ``collect`` gives
the space back (R6).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from icecore.errors import BackupNotFound, Damaged, NotARepository, ObjectMissing, Refused, StorageFull, Usage, WrongKey
from icecore.evidence import Evidence, ProofKind
from icecore.model import BackupFacts
from icecore.repository import proofs
from icecore.repository.blocks import DEFAULT_BLOCK_BYTES, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, BlockCodec
from icecore.repository.checking import Checked, check
from icecore.repository.collection import Collected, collect
from icecore.repository.fencing import TOMBSTONE, absent, bury, manifests, take
from icecore.repository.filelist import FileList
from icecore.repository.index import BlockTable
from icecore.repository.layout import CLUSTERS, KEY, REPOSITORY, ClusterLayout
from icecore.repository.log import STRIDE_BYTES, Log, LogWriter
from icecore.repository.manifest import MAX_MANIFEST_BYTES, Root, StoredFile, decode_manifest
from icecore.repository.reader import Reader, get_whole
from icecore.repository.sealing import (
    ID_BYTES,
    KEY_BYTES,
    SMALL_OBJECT_LIMIT_BYTES,
    KeyFile,
    Keyring,
    Passphrase,
    Secret,
    checked_line,
    read_line,
    unwrap,
    wrap,
)
from icecore.repository.writer import Writer, exists, put_once
from icecore.storage import Storage

__all__ = [
    "STRIDE_BYTES",
    "Checked",
    "Collected",
    "FileList",
    "KeyFile",
    "Log",
    "LogWriter",
    "Passphrase",
    "Reader",
    "Repository",
    "RepositoryStat",
    "Secret",
    "StoredFile",
    "Writer",
]

FORMAT, VERSION = "icecore repository", 1


@dataclass(frozen=True)
class RepositoryStat:
    stored_bytes: int
    object_count: int
    logical_bytes: int  # the sum of the backups' sizes
    backup_count: int  # that can be read
    damaged_count: int  # whose manifest cannot be read


class Repository:
    """An open repository. Safe for threads; holds no file open."""

    def __init__(self, storage: Storage, keyring: Keyring, stored: bytes, repo_id: str, block_bytes: int) -> None:
        """Use ``create`` or ``open``. ``stored`` is the object ``repository``."""
        self.storage, self.id, self.block_bytes = storage, repo_id, block_bytes
        self._keyring, self._stored = keyring, stored
        self._codec = BlockCodec(keyring.block_key)

    # ------------------------------------------------------------ the whole

    @classmethod
    def create(cls, storage: Storage, secret: Secret | None, *, block_bytes: int = DEFAULT_BLOCK_BYTES) -> Repository:
        """A new repository in an empty place; without ``secret`` it is not encrypted."""
        if not MIN_BLOCK_BYTES <= block_bytes <= MAX_BLOCK_BYTES or block_bytes % MIN_BLOCK_BYTES:
            raise Usage(reason=f"block size {block_bytes} is not a multiple of 4096 up to {MAX_BLOCK_BYTES}")
        # 1 nothing may lie there, but for the key of a creation that was cut off
        for found in storage.list(""):
            if found.name != KEY:
                raise Refused(f"the place for the repository is not empty: it holds {found.name}")
        # 2 the wrapped data key
        repo_id = os.urandom(ID_BYTES).hex()
        facts = {"format": FORMAT, "version": VERSION, "id": repo_id}
        stored = checked_line(facts | {"block_bytes": block_bytes, "encrypted": secret is not None})
        data_key = None if secret is None else os.urandom(KEY_BYTES)
        if secret is not None and data_key is not None:
            storage.replace(KEY, wrap(data_key, secret, stored))
        # 3 from here on it is a repository
        storage.put(REPOSITORY, [stored])
        return cls(storage, Keyring(data_key, repo_id), stored, repo_id, block_bytes)

    @classmethod
    def open(cls, storage: Storage, secret: Secret | None) -> Repository:
        """``NotARepository``, or ``WrongKey`` if ``secret`` does not fit (or is missing, or not needed)."""
        # 1 what it is
        stored = _small(storage, REPOSITORY)
        try:
            facts = read_line(stored, REPOSITORY)
        except Damaged as error:
            raise NotARepository(place=storage, reason=str(error)) from error
        if facts.get("format") != FORMAT:
            raise NotARepository(place=storage, reason="the object `repository` is something else")
        if facts.get("version") != VERSION:
            reason = f"its format version is {facts.get('version')}, and this program knows {VERSION}"
            raise NotARepository(place=storage, reason=reason)
        repo_id, block_bytes, encrypted = facts.get("id"), facts.get("block_bytes"), facts.get("encrypted")
        if (
            type(repo_id) is not str
            or len(repo_id) != 2 * ID_BYTES
            or set(repo_id) - set("0123456789abcdef")
            or type(block_bytes) is not int
            or not MIN_BLOCK_BYTES <= block_bytes <= MAX_BLOCK_BYTES
            or type(encrypted) is not bool
        ):
            raise NotARepository(place=storage, reason="the object `repository` is malformed")
        # 2 its key; one that was closed with a key and now claims to need none was exchanged
        if encrypted and secret is None:
            raise WrongKey(reason="it is encrypted and no key was given")
        if secret is not None and not encrypted:
            raise WrongKey(reason="it is not encrypted")
        data_key = None if secret is None else unwrap(_small(storage, KEY), secret, stored)
        return cls(storage, Keyring(data_key, repo_id), stored, repo_id, block_bytes)

    @property
    def encrypted(self) -> bool:
        return self._keyring.encrypted

    def change_secret(self, new: Secret) -> None:
        """From now on ``new`` opens the repository, and nothing else. Rewrites one small object."""
        if self._keyring.data_key is None:
            raise Refused("the repository is not encrypted, so it has no key to change")
        self.storage.replace(KEY, wrap(self._keyring.data_key, new, self._stored))

    # ------------------------------------------------------------ backups

    def clusters(self) -> list[str]:
        """Ids of all clusters ever written to, with or without backups."""
        return list(self.storage.folders(CLUSTERS))

    def backups(self, cluster_id: str | None = None, *, damaged: list[Damaged] | None = None) -> Iterator[BackupFacts]:
        """Newest first. An unreadable manifest raises ``Damaged``, or is put into ``damaged`` if that is given."""
        found: list[BackupFacts] = []
        for cluster in [cluster_id] if cluster_id is not None else self.clusters():
            layout = ClusterLayout(cluster)
            for last, _ in manifests(self.storage, layout):
                try:
                    found.append(self._manifest(layout, last)[0])
                except ObjectMissing:
                    continue  # deleted since it was listed
                except Damaged as error:
                    if damaged is None:
                        raise
                    damaged.append(error)
        found.sort(key=lambda facts: (facts.boundary.consistent_at, facts.backup_id), reverse=True)
        return iter(found)

    def find(self, backup_id: str) -> BackupFacts:
        """The backup whose id is, or alone begins with, ``backup_id``; reads no other backup's manifest."""
        matches: list[tuple[str, ClusterLayout]] = []
        for cluster in self.clusters():
            layout = ClusterLayout(cluster)
            for last, _ in manifests(self.storage, layout):
                if last == backup_id:
                    return self._manifest(layout, last)[0]
                if backup_id and last.startswith(backup_id):
                    matches.append((last, layout))
        if len(matches) > 1:
            raise Usage(reason=f"{backup_id} is the beginning of {len(matches)} backup ids")
        if not matches:
            raise BackupNotFound
        last, layout = matches[0]
        return self._manifest(layout, last)[0]

    def has(self, cluster_id: str, backup_id: str) -> BackupFacts | None:
        """The backup's facts if it exists (R4)."""
        try:
            return self._manifest(ClusterLayout(cluster_id), backup_id)[0]
        except ObjectMissing:
            return None

    def reader(self, cluster_id: str, backup_id: str, *, beside: Writer | None = None) -> Reader:
        """``beside``: the cluster's writer, whose table of blocks it may use."""
        layout = ClusterLayout(cluster_id)
        try:
            return self._reader(layout, backup_id, beside.known if beside else None)
        except ObjectMissing as error:
            raise BackupNotFound from error

    def writer(self, cluster_id: str) -> Writer:
        """The cluster's only writer while it is open; ``LeaseHeld`` if there is one."""
        layout = ClusterLayout(cluster_id)
        lease = take(self.storage, layout)
        try:
            put_once(self.storage, layout.began)
            return Writer(self.storage, self._keyring, self._codec, layout, lease, self.block_bytes)
        except BaseException as error:
            lease.__exit__(type(error), error, error.__traceback__)
            raise

    def log(self, cluster_id: str) -> Log:
        """The cluster's continuous log, as it is listed when first asked."""
        return Log(self.storage, self._keyring, self._codec, ClusterLayout(cluster_id))

    def log_writer(self, cluster_id: str) -> LogWriter:
        """The cluster's only archiver while it is open; ``LeaseHeld`` if there is one. Not the block writer's lease:
        the log goes on beside a backup and a collection."""
        layout = ClusterLayout(cluster_id)
        lease = self.storage.lease(layout.log_lease)
        return LogWriter(self.storage, self._keyring, self._codec, layout, lease)

    def delete_log(self, cluster_id: str) -> None:
        """Remove the whole log of a cluster that is not archived any more."""
        layout = ClusterLayout(cluster_id)
        with self.storage.lease(layout.log_lease) as lease:
            for found in list(self.storage.list(layout.log)):
                lease.confirm()
                self.storage.delete(found.name)

    def refuse_spent(self, cluster_id: str, backup_id: str) -> None:
        """Raise ``Refused`` if no backup can have this id any more."""
        layout = ClusterLayout(cluster_id)
        if exists(self.storage, layout.manifest(backup_id)) or exists(self.storage, layout.gone(backup_id)):
            raise Refused(
                f"number {backup_id} was given up: its backup was deleted, or cut off at its last step and collected",
                hint="Back up again; that takes a new number.",
            )

    def delete_backup(self, cluster_id: str, backup_id: str) -> None:
        """From now on there is no such backup, nor can one be made; the space comes back with ``collect``. Needs no
        lease: it may happen beside a backup, which counts on blocks, never on another backup's manifest."""
        layout = ClusterLayout(cluster_id)
        # 1 on a full storage the marks give way to what makes room; collection can do without them
        with suppress(StorageFull):
            put_once(self.storage, layout.gone(backup_id))
        # 2 the manifest, until its name is given up: a writer that lost its lease may be about to create it
        while not bury(self.storage, layout, backup_id):
            self.storage.delete(layout.manifest(backup_id))  # R6: manifest first
        # 3 what was found out about it
        proofs.remove(self.storage, layout, backup_id)

    # ------------------------------------------------------------ evidence

    def add_evidence(self, evidence: Evidence) -> Evidence:
        """Keep it with its backup; gives what is kept. See ``proofs``."""
        return proofs.add(self.storage, self._keyring, ClusterLayout(evidence.cluster_id), evidence)

    def evidence(self, cluster_id: str, backup_id: str, *, damaged: list[Damaged] | None = None) -> Iterator[Evidence]:
        """What is kept of a backup, oldest first. Unreadable: raises ``Damaged``, or into ``damaged``."""
        return proofs.of_backup(self.storage, self._keyring, ClusterLayout(cluster_id), backup_id, damaged)

    def one_evidence(self, cluster_id: str, backup_id: str, number: str, kind: ProofKind) -> Evidence | None:
        return proofs.one(self.storage, self._keyring, ClusterLayout(cluster_id), backup_id, number, kind)

    # ------------------------------------------------------------ space and bytes

    def collect(self, cluster_id: str, *, dry_run: bool = False) -> Collected:
        """Remove what no backup of the cluster uses. See ``collection``."""
        layout = ClusterLayout(cluster_id)

        def open_reader(backup_id: str, table: BlockTable) -> Reader:
            return self._reader(layout, backup_id, table)

        lease = self.storage.lease(layout.lease) if dry_run else take(self.storage, layout, also_when_full=True)
        with lease:
            done = collect(self.storage, self._keyring, self._codec, layout, lease, open_reader, dry_run=dry_run)
            if not dry_run:
                lease.confirm()
                proofs.remove_orphans(self.storage, layout)
            return done

    def check(
        self,
        cluster_id: str,
        *,
        only: str = "",
        share: float = 1.0,
        advance: Callable[[int], None] = lambda read_bytes: None,
    ) -> Checked:
        """Read and decode what the cluster's backups need, or that one. See ``checking``."""
        layout = ClusterLayout(cluster_id)

        def open_reader(backup_id: str, table: BlockTable) -> Reader:
            return self._reader(layout, backup_id, table)

        return check(
            self.storage, self._keyring, self._codec, layout, open_reader, only=only, share=share, advance=advance
        )

    def stat(self, cluster_id: str | None = None) -> RepositoryStat:
        prefix = "" if cluster_id is None else ClusterLayout(cluster_id).root
        sizes = [found.size_bytes for found in self.storage.list(prefix)]
        damaged: list[Damaged] = []
        logical = [facts.size_bytes for facts in self.backups(cluster_id, damaged=damaged)]
        return RepositoryStat(sum(sizes), len(sizes), sum(logical), len(logical), len(damaged))

    def _reader(self, layout: ClusterLayout, backup_id: str, table: BlockTable | None = None) -> Reader:
        facts, root = self._manifest(layout, backup_id)
        return Reader(self.storage, self._keyring, self._codec, layout, facts, root, self.block_bytes, table)

    def _manifest(self, layout: ClusterLayout, backup_id: str) -> tuple[BackupFacts, Root]:
        name = layout.manifest(backup_id)
        size_bytes = self.storage.size_bytes(name)
        if size_bytes == len(TOMBSTONE) and absent(self.storage, name):
            raise ObjectMissing(name=name)
        return decode_manifest(
            get_whole(self.storage, name, size_bytes, MAX_MANIFEST_BYTES), self._keyring, layout.cluster_id, name
        )


def _small(storage: Storage, name: str) -> bytes:
    try:
        size_bytes = storage.size_bytes(name)
        if size_bytes > SMALL_OBJECT_LIMIT_BYTES:
            raise NotARepository(place=storage, reason=f"the object `{name}` is too large")
        return storage.get(name)
    except ObjectMissing as error:
        raise NotARepository(place=storage, reason=f"it holds no object `{name}`") from error
