"""Level-1 images: a cluster's files, cloned on their own file system so that both share every block (XFS, btrfs).

A clone costs metadata only, whatever the size, and stays as it is while the live file changes: writing to a shared
block gives the writer a new one. Two uses follow:

* ``NewImage.take`` copies files in the time that their extents take: a backup holds the server for that long only;
* ``KeptImage.unchanged`` tells which blocks of a new clone need not be read, because the older one pins the same ones.

An image is a faster way in, never the only copy: it is kept only for a backup whose manifest is in the repository, and
may be dropped at any moment. ``.icecore-images/<cluster>/<backup>`` lies beside the data directory and each tablespace,
one on each file system; ``<backup>.seal`` beside it says what its larger files were when they were cloned (``seals``).

The directory beside the data may belong to the servers' user, who could plant links there. So each level is opened
without following links, must belong to us and be closed to others, and everything below is reached through the open
descriptor.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from icecore.errors import EngineFailed, StorageFull
from icecore.images.clones import CannotClone, clone_open, share, sync_file_system
from icecore.images.extents import NoMap, Seal, own_bytes, unchanged_blocks
from icecore.images.seals import NewSeals, Seals

PLACE = ".icecore-images"
PARTIAL, SEAL = ".partial", ".seal"
DISTRUSTED = "distrusted"
FREE_AT_LEAST = 0.10  # of the file system: an image pins what the live database gives up

__all__ = ["CannotClone", "Images", "KeptImage", "NewImage", "Root", "open_roots"]


@dataclass(frozen=True)
class Root:
    """Where images of one cluster lie on one file system. ``path`` leads through an open descriptor."""

    device: int
    descriptor: int
    named: Path  # for people and for the next process

    @property
    def path(self) -> Path:
        return Path(f"/proc/self/fd/{self.descriptor}")

    def names(self) -> list[str]:
        return [entry.name for entry in self.path.iterdir()]

    def free_share(self) -> float:
        space = os.fstatvfs(self.descriptor)
        return space.f_bavail / space.f_blocks if space.f_blocks else 0.0


def open_roots(cluster_id: str, parents: Sequence[Path], *, create: bool) -> list[Root]:
    """One root for each file system of ``parents`` on which we may have one; the first parent of each counts."""
    roots: dict[int, Root] = {}
    for parent in parents:
        with contextlib.suppress(OSError):
            device = parent.stat().st_dev
            if device not in roots:
                roots[device] = Root(device, _descend(parent, cluster_id, create=create), parent / PLACE / cluster_id)
    return list(roots.values())


def _descend(parent: Path, cluster_id: str, *, create: bool) -> int:
    """An open descriptor of the cluster's directory. ``OSError`` where it is not there or not safely ours."""
    here = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in (PLACE, cluster_id):
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=here)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        finally:
            os.close(here)
        here = below
        status = os.fstat(here)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            os.close(here)
            raise PermissionError(f"{parent / PLACE} is not ours alone")
    return here


class Images:
    """The images of one cluster on this host. One process at a time: whoever holds the cluster's lease."""

    def __init__(self, cluster_id: str, parents: Sequence[Path], *, create: bool = True) -> None:
        self._roots = open_roots(cluster_id, parents, create=create)

    @property
    def places(self) -> list[Path]:
        return [root.named for root in self._roots]

    def __enter__(self) -> Images:
        return self

    def __exit__(self, *_: object) -> None:
        for root in self._roots:
            os.close(root.descriptor)
        self._roots = []

    def free_share(self) -> float:
        """Of the fullest file system that holds images; 1.0 where there are none."""
        return min((root.free_share() for root in self._roots), default=1.0)

    def begin(self, backup_id: str, sealed_above_bytes: int) -> NewImage | None:
        """A new image; None where no file system has room for one. What a killed run left half-made goes first.
        ``sealed_above_bytes``: files up to this size are read each time, and need no seal."""
        self.drop_unfinished()
        roots = [root for root in self._roots if root.free_share() >= FREE_AT_LEAST]
        return NewImage(roots, backup_id, sealed_above_bytes) if roots else None

    def drop_unfinished(self) -> bool:
        """Whether there was anything."""
        return self._drop(lambda name: name.endswith(PARTIAL))

    def backup_ids(self) -> list[str]:
        """Backups that have a sealed image on any of the file systems, newest first."""
        found = {name for root in self._roots for name in root.names() if _sealed(root, name)}
        return sorted(found, key=lambda name: (len(name), name), reverse=True)

    def kept(self, backup_id: str, job_uuid: str | None = None) -> KeptImage:
        """``job_uuid``: of the job that made the backup; an image of another one vouches for nothing. A copied home and
        one that was rolled back can each have a backup of this number."""
        return KeptImage([root for root in self._roots if _sealed(root, backup_id)], backup_id, job_uuid)

    def keep_only(self, backup_id: str) -> bool:
        """Drop all other sealed ones; with an empty id, all. Whether there was anything."""
        return self._drop(lambda name: not name.endswith(PARTIAL) and name.removesuffix(SEAL) != backup_id)

    def distrust(self, reason: str) -> None:
        """From now on nothing is concluded from maps here, and no image is kept, until a person removes the mark."""
        for root in self._roots:
            _write_durably(root, DISTRUSTED, [reason.encode()])
        self.keep_only("")

    def distrusted(self) -> bool:
        return any((root.path / DISTRUSTED).exists() for root in self._roots)

    def make_room(self) -> bool:
        """Let go what the living need the room of: with less than ``FREE_AT_LEAST`` the kept ones, with half of that
        the one being made as well, and its backup fails. Whether there was anything."""
        free = self.free_share()
        kept = free < FREE_AT_LEAST and self.keep_only("")
        unfinished = free < FREE_AT_LEAST / 2 and self.drop_unfinished()
        return kept or unfinished

    def _drop(self, goes: Callable[[str], bool]) -> bool:
        found = False
        for root in self._roots:
            names = [name for name in root.names() if name != DISTRUSTED and goes(name)]
            # the seal first: what is half removed must not look whole
            for name in sorted(names, key=lambda name: not name.endswith(SEAL)):
                _remove(root.path / name)
                found = True
        return found


def _sealed(root: Root, name: str) -> bool:
    return not name.endswith((PARTIAL, SEAL)) and (root.path / f"{name}{SEAL}").exists()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class NewImage:
    """An image that is being made. ``take`` may be called by several threads."""

    def __init__(self, roots: Sequence[Root], backup_id: str, sealed_above_bytes: int) -> None:
        self.backup_id = backup_id
        self._sealed_above_bytes = sealed_above_bytes
        self._roots = {root.device: root for root in roots}
        self._places = {root.device: self._directory(root) for root in roots}
        self._made: set[tuple[int, str]] = set()  # directories
        self._barren: set[int] = set()  # devices whose file system shares no blocks: asked once
        self._lock = threading.Lock()
        self._taken: dict[int, NewSeals] = {}

    def take(self, path: str, source: str) -> Path | None:
        """Make a clone of ``source``, to be read instead of it: ``path`` below the directory given back. None where its
        file system cannot share blocks.

        ``path``: its name in the backup. Errors: FileNotFoundError (dropped meanwhile), EngineFailed, StorageFull.
        """
        if len(self._barren) == len(self._roots):
            return None
        reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            device = os.fstat(reading).st_dev
            root = self._roots.get(device)
            if root is None or device in self._barren:
                return None
            self._make(device, path.rpartition("/")[0])
            made = clone_open(reading, f"{self.backup_id}{PARTIAL}/{path}", below=root.descriptor)
        except CannotClone as refusal:
            if refusal.never:
                self._barren.add(device)
            return None
        finally:
            os.close(reading)
        with self._lock:
            if device not in self._taken:
                self._taken[device] = NewSeals()
            if made.st_size > self._sealed_above_bytes:
                # as it is now: what happens to it from here on breaks the seal
                self._taken[device].add(path, Seal.of_status(made))
        return self._places[device]

    def sync(self) -> None:
        """Durable, and room left for the living."""
        for root in self._roots.values():
            sync_file_system(root.descriptor)
        self.check_space()

    def check_space(self) -> None:
        """``StorageFull`` before the live database is out of room because of this image."""
        for root in self._roots.values():
            if root.free_share() < FREE_AT_LEAST / 2:
                raise StorageFull(doing="keep an image on", name=root.named, reason="the file system fills up")

    def seal(self, job_uuid: str) -> bool:
        """Keep it: whose it is and what its larger files were when they were cloned is written down, then it gets its
        name. Whether anything is kept."""
        for device, seals in self._taken.items():
            root = self._roots[device]
            _write_durably(root, f"{self.backup_id}{SEAL}", seals.encoded(device, job_uuid))
            self._directory(root).rename(root.path / self.backup_id)
            os.fsync(root.descriptor)
        return bool(self._taken)

    def drop(self) -> None:
        for root in self._roots.values():
            _remove(self._directory(root))

    def _directory(self, root: Root) -> Path:
        return root.path / f"{self.backup_id}{PARTIAL}"

    def _make(self, device: int, directory: str) -> None:
        if (device, directory) not in self._made:
            with self._lock:
                (self._places[device] / directory).mkdir(mode=0o700, parents=True, exist_ok=True)
                self._made.add((device, directory))


class KeptImage:
    """The sealed image of an earlier backup."""

    def __init__(self, roots: Sequence[Root], backup_id: str, job_uuid: str | None) -> None:
        self.backup_id = backup_id
        self._parts: list[tuple[Root, Seals]] = []
        for root in roots:
            # a seal that cannot be read vouches for nothing
            with contextlib.suppress(OSError, ValueError):
                seals = Seals((root.path / f"{backup_id}{SEAL}").read_bytes())
                if job_uuid is None or seals.job_uuid == job_uuid:
                    self._parts.append((root, seals))

    def __contains__(self, path: str) -> bool:
        return self._find(path) is not None

    def __len__(self) -> int:
        return sum(len(seals) for _, seals in self._parts)

    def lay(self, path: str, onto: int, size_bytes: int) -> bool:
        """Make the open, empty file ``onto`` share the first ``size_bytes`` of the image's ``path``. False if not:
        another file system, not in the image, or not what was sealed."""
        found = self._find(path)
        if found is None:
            return False
        root, seal = found
        try:
            with self._opened(root, path) as descriptor:
                if Seal.of(descriptor) != seal or seal.size_bytes < size_bytes:
                    return False
                share(descriptor, onto)
                os.truncate(onto, size_bytes)
                return True
        except (CannotClone, EngineFailed, OSError):  # whatever became of the image, the repository has the bytes
            return False

    def device_of(self, directory: str) -> int | None:
        """Of the file system that holds its part of a directory of the cluster. None where there is no such part, or
        where that file system has another number since: no file would equal its seal."""
        for root, seals in self._parts:
            with contextlib.suppress(OSError):
                found = os.stat(f"{self.backup_id}/{directory}", dir_fd=root.descriptor, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode) and seals.device == root.device:
                    return root.device
        return None

    def pinned_bytes(self) -> int:
        """What would be free if this image were gone: the extents that nothing else shares, of small files, too. What
        the file system needs for the files themselves is not counted."""
        total = 0
        for root, _ in self._parts:
            for path in _files(root, self.backup_id):
                with contextlib.suppress(NoMap, OSError), self._opened(root, path) as descriptor:
                    total += own_bytes(descriptor)
        return total

    def unchanged(self, path: str, newer: str, block_bytes: int) -> npt.NDArray[np.bool_] | None:
        """For each block of the clone ``newer`` whether this image surely has the same bytes; None: nothing known."""
        found = self._find(path)
        if found is None:
            return None
        root, seal = found
        try:
            with self._opened(root, path) as old, _opened(newer) as new:
                return unchanged_blocks(old, new, seal, block_bytes)
        except (NoMap, OSError):
            return None

    def _find(self, path: str) -> tuple[Root, Seal] | None:
        for root, seals in self._parts:
            seal = seals.find(path)
            if seal is not None:
                return root, seal
        return None

    def _opened(self, root: Root, path: str) -> contextlib.AbstractContextManager[int]:
        return _opened(f"{self.backup_id}/{path}", below=root.descriptor)


def _files(root: Root, name: str) -> Iterator[str]:
    """Paths of the files below the directory ``name``, without it; no link is followed."""
    for directory, _, files, _ in os.fwalk(name, dir_fd=root.descriptor):
        for file in files:
            yield f"{directory}/{file}"[len(name) + 1 :]


@contextlib.contextmanager
def _opened(path: str, *, below: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=below)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_durably(root: Root, name: str, parts: Sequence[bytes]) -> None:
    temporary = f"{name}{PARTIAL}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=root.descriptor)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(descriptor)
    os.rename(temporary, name, src_dir_fd=root.descriptor, dst_dir_fd=root.descriptor)
