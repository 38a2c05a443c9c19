"""Small backups for the repository's tests: a tree is ``{path: bytes}``; a path ending in ``/`` is a directory."""

from __future__ import annotations

from collections.abc import Mapping

from icecore.model import BackupFacts, BackupMode, Boundary, FileKind, FileMeta
from icecore.repository import KeyFile, Reader, Repository, StoredFile
from icecore.storage import Storage

KEY = KeyFile(bytes(range(32)))
BLOCK_BYTES = 4096
CLUSTER = "pc-1"

Tree = Mapping[str, bytes]


def facts_of(backup_id: str, tree: Tree, cluster_id: str = CLUSTER) -> BackupFacts:
    number = int(backup_id) if backup_id.isdigit() else 0
    return BackupFacts(
        backup_id=backup_id,
        cluster_id=cluster_id,
        cluster_name="orders",
        job_uuid=f"job-{backup_id}",
        mode=BackupMode.MANUAL,
        boundary=Boundary("0/3000028", "0/3000138", 1, 1_700_000_000, 1_700_000_010, 1_700_000_009 + number),
        engine="postgresql",
        engine_version="15.18",
        size_bytes=sum(len(content) for content in tree.values()),
        file_count=sum(not path.endswith("/") for path in tree),
        tool_version="0.1.0",
        client_token="token",
        warnings=("a warning",),
        engine_facts={"system_identifier": "7300000000000000001", "nested": {"list": [1, 2]}},
    )


def made(storage: Storage) -> Repository:
    return Repository.create(storage, KEY, block_bytes=BLOCK_BYTES)


def back_up(repo: Repository, backup_id: str, tree: Tree, cluster_id: str = CLUSTER) -> None:
    """A whole backup, as the procedure does it, in one thread."""
    with repo.writer(cluster_id) as writer:
        files = []
        for path, content in tree.items():
            starts = range(0, len(content), repo.block_bytes)
            ids = b"".join(writer.add_block(content[at : at + repo.block_bytes]) for at in starts)
            if path.endswith("/"):
                files.append(StoredFile(FileMeta(path.rstrip("/"), FileKind.DIRECTORY, 0o700), b""))
            else:
                files.append(StoredFile(FileMeta(path, FileKind.FILE, 0o600, 1_700_000_000, len(content)), ids))
        writer.finish_blocks()
        writer.check()
        writer.commit(facts_of(backup_id, tree, cluster_id), files)


def content(reader: Reader) -> dict[str, bytes]:
    """The backup's tree, every block proven."""
    tree = {}
    for file in reader.files():
        blocks = [reader.block(file.blocks[at : at + 32]) for at in range(0, len(file.blocks), 32)]
        tree[file.meta.path + ("/" if file.meta.kind is FileKind.DIRECTORY else "")] = b"".join(blocks)
    return tree


def everything(repo: Repository, cluster_id: str = CLUSTER) -> dict[str, dict[str, bytes]]:
    """All backups of a cluster with their trees."""
    return {facts.backup_id: content(repo.reader(cluster_id, facts.backup_id)) for facts in repo.backups(cluster_id)}


def lasting(objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """Without the marks of who has a cluster, which change each time somebody takes it."""
    return {name: data for name, data in objects.items() if "/epochs/" not in name}
