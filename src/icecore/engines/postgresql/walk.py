"""Which names of a data directory belong into a backup, and in which order.

The rules of ``basebackup.c`` and of the manual's chapter on low-level backups, with these differences: also
``standby.signal`` and ``recovery.signal`` stay out (a restored copy must not turn into a standby of its source), and
links inside the data directory are followed and stored as what they lead to (a restored copy must not reach into its
source). ``left_out``, ``relation_of`` and the tables are pure; ``Walk`` reads directories.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from icecore.errors import EngineFailed
from icecore.model import FileKind, FileMeta

# Rebuilt or emptied by every start; their directories must exist.
CONTENT_LEFT_OUT = frozenset(
    ["pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans", "pg_stat_tmp"]
)
# Directories that a server expects below a data directory, whatever the backup holds.
EXPECTED_DIRECTORIES = (*sorted(CONTENT_LEFT_OUT), "pg_wal/archive_status", "pg_tblspc", "pg_commit_ts", "pg_twophase")
# fmt: off
ROOT_FILES_LEFT_OUT = frozenset((
    "postmaster.pid", "postmaster.opts", "backup_label", "backup_label.old", "tablespace_map", "tablespace_map.old",
    "backup_manifest", "backup_manifest.tmp", "postgresql.auto.conf.tmp", "current_logfiles.tmp", "recovery.signal",
    "standby.signal",
))
# fmt: on
PREFIXES_LEFT_OUT = ("pgsql_tmp", "pg_internal.init")
EXCLUSIONS = (
    *sorted(f"{name}/*" for name in CONTENT_LEFT_OUT),
    *sorted(ROOT_FILES_LEFT_OUT),
    *(f"{prefix}*" for prefix in PREFIXES_LEFT_OUT),
    "temporary relations",
    "unlogged relations except their init forks",
    "lost+found",
)
# These never vanish from a living database: their absence means that something other than a server is at work.
NEVER_VANISH = frozenset(("pg_control", "PG_VERSION", "pg_filenode.map"))

_RELATION = re.compile(r"^(?P<temporary>t\d+_)?(?P<number>\d+)(?:_(?P<fork>fsm|vm|init))?(?:\.(?P<segment>\d+))?$")
_DATABASE_DIRECTORY = re.compile(r"^(?:base/\d+|pg_tblspc/\d+/PG_[^/]+/\d+)$")


@dataclass(frozen=True, slots=True)
class Relation:
    """What a relation file's name says."""

    number: int
    fork: str  # "main", "fsm", "vm", "init"
    segment: int
    temporary: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A name that belongs into the backup and where its bytes are."""

    meta: FileMeta
    source: Path | str
    relation: Relation | None = None


@functools.lru_cache(4096)  # asked several times of each name
def relation_of(name: str) -> Relation | None:
    match = _RELATION.match(name)
    if match is None:
        return None
    return Relation(
        int(match["number"]), match["fork"] or "main", int(match["segment"] or 0), match["temporary"] is not None
    )


def found_again(meta: FileMeta, source: Path | str) -> Found:
    """What a walk found under this path, with its bytes elsewhere."""
    directory, _, name = meta.path.rpartition("/")
    return Found(meta, source, relation_of(name) if holds_relations(directory) else None)


@functools.lru_cache(64)
def holds_relations(directory: str) -> bool:
    """Whether relation files can lie directly in this directory (relative to the data directory)."""
    return directory == "global" or _DATABASE_DIRECTORY.match(directory) is not None


def left_out(directory: str, name: str, statistics_directory: str = "pg_stat_tmp") -> bool:
    """Whether a name is no part of any backup. ``directory`` is "" for the data directory itself."""
    if name.startswith(PREFIXES_LEFT_OUT) or name == "lost+found":
        return True
    if directory == "":
        return name in ROOT_FILES_LEFT_OUT
    root = directory.split("/", 1)[0]
    if root == "pg_wal":
        # The directories inside are kept, empty.
        return not (directory == "pg_wal" and name in ("archive_status", "summaries"))
    if holds_relations(directory):
        relation = relation_of(name)
        return relation is not None and relation.temporary
    return root in CONTENT_LEFT_OUT or directory == statistics_directory


class Walk:
    """One pass over a data directory. Sizes are those seen when a name was listed; the log brings what grows later."""

    def __init__(
        self,
        data_directory: Path,
        *,
        version_directory: str,
        statistics_directory: str = "pg_stat_tmp",
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        """``version_directory``: the one part of a tablespace that is this server's (``PG_15_202209061``).
        ``secrets``: real paths outside the data directory that a link may lead to but no backup may hold."""
        self._root = data_directory
        self._version_directory = version_directory
        self._statistics_directory = statistics_directory
        self._secrets = secrets
        self._tablespaces = self._tablespace_targets()
        self._init_seen: dict[str, set[int]] = {}
        self._without_init: dict[str, str] = {}  # directory -> names of relation files, one a line: compact
        self.warnings: list[str] = []
        self.links: dict[str, str] = {}  # links that were followed, with what they said
        self.tablespace_bytes: dict[str, int] = {}

    def entries(self) -> Iterator[Found]:
        """Everything but ``global/pg_control``. A directory comes before what is in it."""
        yield from self._directory("", self._root, frozenset())

    def omitted(self) -> frozenset[str]:
        """Relation files that were listed as ordinary ones and have turned out to be unlogged since.

        Call it after all files were read. Their init forks come back from the log.
        """
        found = set()
        for directory, listed in self._without_init.items():
            try:
                with os.scandir(self._root / directory) as names:
                    now = {r.number for r in (relation_of(n.name) for n in names) if r is not None and r.fork == "init"}
            except FileNotFoundError:
                continue
            late = now - self._init_seen[directory]
            if late:
                for name in listed.split("\n"):
                    relation = relation_of(name)
                    if relation is not None and relation.number in late:
                        found.add(f"{directory}/{name}")
        return frozenset(found)

    # ------------------------------------------------------------ one directory

    def _directory(self, relative: str, source: Path, above: frozenset[tuple[int, int]]) -> Iterator[Found]:
        # 1. List it whole: a name that existed throughout is in the list, whatever else changes meanwhile.
        try:
            status = source.stat()
            with os.scandir(source) as entries:
                names = sorted(entry.name for entry in entries)
        except FileNotFoundError:
            if relative in ("", "base", "global"):
                raise EngineFailed(doing="listing the data directory", reason=f"{source} is gone") from None
            return  # a database or tablespace was dropped
        except OSError as error:
            raise EngineFailed(doing=f"listing {source}", reason=str(error.strerror)) from error
        if relative == "" and not {"base", "global"} <= set(names):
            raise EngineFailed(doing="listing the data directory", reason=f"{source} has no base or no global")
        if (status.st_dev, status.st_ino) in above:
            self.warnings.append(f"{relative}: a link leads back to a directory above it; left out")
            return
        above |= {(status.st_dev, status.st_ino)}
        if relative:
            yield Found(FileMeta(relative, FileKind.DIRECTORY, _mode(status), int(status.st_mtime)), source)
        # 2. Unlogged relations are known by their init forks.
        relations = holds_relations(relative) and relative != "global"
        unlogged: set[int] = set()
        if relations:
            for name in names:
                relation = relation_of(name)
                if relation is not None and relation.fork == "init":
                    unlogged.add(relation.number)
            self._init_seen[relative] = unlogged
        ordinary = []
        # 3. Each name on its own.
        for name in names:
            if left_out(relative, name, self._statistics_directory):
                continue
            relation = relation_of(name) if holds_relations(relative) else None
            if relation is not None and relation.number in unlogged and relation.fork != "init":
                continue
            if relations and relation is not None and relation.fork != "init":
                ordinary.append(name)
            path = f"{relative}/{name}" if relative else name
            if path != "global/pg_control":
                yield from self._name(path, f"{source}/{name}", relation, above)
        if relations:
            self._without_init[relative] = "\n".join(ordinary)

    def _name(
        self, path: str, place: str, relation: Relation | None, above: frozenset[tuple[int, int]]
    ) -> Iterator[Found]:
        try:
            status = os.lstat(place)
            if stat.S_ISLNK(status.st_mode):
                source = Path(place)
                if path.startswith("pg_tblspc/"):
                    yield from self._tablespace(path, source, status, above)
                    return
                # The link is stored as what it leads to.
                self.links[path] = str(source.readlink())
                if os.path.realpath(place) in self._secrets:
                    self.warnings.append(f"{path}: leads to a private key; left out")
                    return
                status = source.stat()
        except FileNotFoundError:
            if path not in self.links:
                return  # dropped since it was listed
            if path.split("/")[0] in ("base", "global") or path.startswith("pg_"):
                # The server works with what the link leads to: not seeing it here is blindness, not absence.
                raise EngineFailed(doing=f"reading {path}", reason=f"{self.links[path]} cannot be seen here") from None
            self.warnings.append(f"{path}: a link that leads nowhere; left out")
            return
        except OSError as error:
            raise EngineFailed(doing=f"reading {path}", reason=str(error.strerror)) from error
        if stat.S_ISDIR(status.st_mode):
            if not path.startswith("pg_tblspc/") and os.path.realpath(place) in self._tablespaces:
                return  # a tablespace inside the data directory: its files stand below pg_tblspc
            yield from self._directory(path, Path(place), above)
        elif stat.S_ISREG(status.st_mode):
            if path.startswith("pg_tblspc/"):
                oid = path.split("/")[1]
                self.tablespace_bytes[oid] = self.tablespace_bytes.get(oid, 0) + status.st_size
            meta = FileMeta(path, FileKind.FILE, _mode(status), int(status.st_mtime), status.st_size)
            yield Found(meta, place, relation)
        else:
            self.warnings.append(f"{path}: a socket, pipe or device; left out")

    def _tablespace(
        self, path: str, source: Path, status: os.stat_result, above: frozenset[tuple[int, int]]
    ) -> Iterator[Found]:
        target = str(source.readlink())
        meta = FileMeta(path, FileKind.SYMLINK, _mode(status), int(status.st_mtime), target=target)
        yield Found(meta, source)
        # The server made this directory together with the link. Where it is missing, the tablespace lies on a file
        # system that is not mounted here, or it is being dropped.
        own = source / self._version_directory
        if not own.exists() and source.is_symlink():
            raise EngineFailed(doing=f"reading tablespace {path}", reason=f"{own} cannot be seen here")
        yield from self._directory(f"{path}/{self._version_directory}", own, above)

    def _tablespace_targets(self) -> frozenset[str]:
        try:
            with os.scandir(self._root / "pg_tblspc") as links:
                return frozenset(os.path.realpath(link.path) for link in links if link.is_symlink())
        except FileNotFoundError:
            raise EngineFailed(doing="listing the tablespaces", reason=f"{self._root} has no pg_tblspc") from None


def _mode(status: os.stat_result) -> int:
    return stat.S_IMODE(status.st_mode)
