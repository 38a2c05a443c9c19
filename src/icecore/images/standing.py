"""Where clones that servers run on lie: ``.icecore-clones/<cluster>`` beside images' own place, on each file system.

The directory beside the data may belong to the servers' user, as for images: each level is opened without following
links, must be ours and writable by nobody else, and everything is made and removed through the open descriptor. While
it is made and while it is removed the clone's own directory is closed; in between its user may pass through it, to
parts that belong to that user.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icecore.images.extents import NoMap, own_bytes

PLACE = ".icecore-clones"


@dataclass(frozen=True)
class Stand:
    """A clone's directory on one file system. ``path`` leads through an open descriptor."""

    device: int
    descriptor: int
    above: int  # the descriptor of the directory it is in
    named: Path  # for its user, for people and for the next process

    @property
    def path(self) -> Path:
        return Path(f"/proc/self/fd/{self.descriptor}")

    def free_share(self) -> float:
        space = os.fstatvfs(self.descriptor)
        return space.f_bavail / space.f_blocks if space.f_blocks else 0.0


class Standing:
    """The directories of one clone, by file system: the first parent on each counts. Those that are not there, or not
    safely ours, are left out."""

    def __init__(self, clone_id: str, parents: Sequence[Path], *, create: bool = False) -> None:
        self._clone_id = clone_id
        self.stands: dict[int, Stand] = {}
        for parent in parents:
            with contextlib.suppress(OSError):
                device = parent.stat().st_dev
                if device not in self.stands:
                    self.stands[device] = _stand(parent, clone_id, device, create=create)

    def __enter__(self) -> Standing:
        return self

    def __exit__(self, *_: object) -> None:
        for stand in self.stands.values():
            os.close(stand.descriptor)
            os.close(stand.above)
        self.stands = {}

    def free_share(self) -> float:
        """Of the fullest file system; 1.0 where there is none."""
        return min((stand.free_share() for stand in self.stands.values()), default=1.0)

    def let_pass(self) -> None:
        """What lies in it belongs to its user, who may go there from now on."""
        for stand in self.stands.values():
            os.fchmod(stand.descriptor, 0o711)

    def remove(self) -> None:
        """Everything. Killed anywhere, it can be done again."""
        for stand in self.stands.values():
            os.fchmod(stand.descriptor, 0o700)
            for entry in list(stand.path.iterdir()):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            os.rmdir(self._clone_id, dir_fd=stand.above)

    def pinned_bytes(self) -> int:
        """What would be free if this clone were gone: the extents that nothing else shares."""
        return sum(_own_bytes_below(stand.path) for stand in self.stands.values())


def _stand(parent: Path, clone_id: str, device: int, *, create: bool) -> Stand:
    """``OSError`` where it is not there or not safely ours."""
    top = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        above = _enter(top, PLACE, 0o711, create=create)
    finally:
        os.close(top)
    try:
        return Stand(device, _enter(above, clone_id, 0o700, create=create), above, parent / PLACE / clone_id)
    except OSError:
        os.close(above)
        raise


def _enter(here: int, name: str, mode: int, *, create: bool) -> int:
    made = False
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=here)
            made = True
    below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    status = os.fstat(below)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        os.close(below)
        raise PermissionError(f"{name} is not ours alone")
    if made:
        os.fchmod(below, mode)
    return below


def _own_bytes_below(top: Path) -> int:
    total = 0
    for _, _, names, directory in os.fwalk(top, follow_symlinks=False):
        for name in names:
            with contextlib.suppress(NoMap, OSError):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(name, flags, dir_fd=directory)
                try:
                    if stat.S_ISREG(os.fstat(descriptor).st_mode):
                        total += own_bytes(descriptor)
                finally:
                    os.close(descriptor)
    return total
