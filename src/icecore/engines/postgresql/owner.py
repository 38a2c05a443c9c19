"""What is done in a directory that belongs to another user, by that user.

A restored cluster belongs to the user that runs its server, and whoever may run code there (``COPY TO PROGRAM``) can
plant links, pipes and programs in it. Root must not be led by them. Checking each path before it is used would be a
race in every place; so nothing in such a directory is done by root at all: ``as_owner`` does it in a child process with
the owner's rights, where a planted link leads no further than its planter could have gone alone.

A fork and not a program of its own: the owner need not be able to read our interpreter or our modules, which may lie
below ``/root``. The child shares no lock with other threads (it reads and writes small files, then leaves without
clean-up), cannot be traced by the owner (the kernel forbids it after a change of user), answers in JSON, which unlike
pickle runs nothing, and is killed when it takes too long: a planted pipe holds up nobody for ever.
"""

from __future__ import annotations

import gc
import json
import os
import pwd
import select
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from icecore.errors import EngineFailed, IcecoreError, Refused, TargetRefused

NOBODY = (65534, 65534)
CHILD_TIMEOUT_S = 60.0
SMALL_BYTES = 65536


def as_owner(owner: tuple[int, int], doing: str, work: Callable[[], Any]) -> Any:
    """``work`` with the owner's rights; what it returns must be JSON. Its refusals and failures come out of here, every
    other exception as ``EngineFailed``."""
    if os.geteuid() != 0 or owner[0] == 0:
        return _answer(_outcome(doing, work))
    groups = _groups(owner)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(owner, groups, writer, doing, work)
    os.close(writer)
    try:
        answer = _read_line(reader, time.monotonic() + CHILD_TIMEOUT_S)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)  # not yet waited for, so the number is still its own
        os.waitpid(pid, 0)
    try:
        outcome = json.loads(answer)
    except ValueError:
        raise EngineFailed(doing=doing, reason=f"it took more than {CHILD_TIMEOUT_S:.0f} s, or was killed") from None
    return _answer(outcome)


def rights(owner: tuple[int, int] | None) -> dict[str, Any]:
    """Arguments for ``subprocess`` that run a program as its owner; as nobody when root knows of none."""
    if os.geteuid() != 0:
        return {}
    uid, gid = owner if owner is not None and owner[0] != 0 else NOBODY
    return {"user": uid, "group": gid, "extra_groups": _groups((uid, gid))}


def private_directory(path: Path, owner: tuple[int, int]) -> None:
    """A directory that only its owner may enter, made if need be. Its parent exists. ``TargetRefused`` for a link, or
    what belongs to a third."""
    _in_parent(path, owner, f"making {path}", lambda real: _own_directory(real, owner))


def private_file(path: Path, owner: tuple[int, int]) -> None:
    """The same for a file, which keeps its content."""
    _in_parent(path, owner, f"making {path}", lambda real: _own_file(real, owner))


def read_small(path: Path) -> str:
    """The start of a regular file. Neither a link nor a pipe is opened to the end: ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        return os.read(descriptor, SMALL_BYTES).decode(errors="replace")
    finally:
        os.close(descriptor)


def closed_to_others(directory: Path) -> bool:
    """Whether only root can get into ``directory``: a directory on the way to it is root's and open to nobody else.
    Of a way through an open descriptor that is the directory which is open: what lies above it is not passed."""
    if directory.is_relative_to("/proc/self/fd"):
        status = Path(*directory.parts[:5]).stat()
        return status.st_uid == 0 and status.st_mode & 0o077 == 0
    real = Path(os.path.realpath(directory))
    for each in reversed(real.parents):
        status = each.lstat()
        if not _ruled_by_root(status):
            return False
        if status.st_mode & 0o077 == 0:
            return True
    return False


# ---------------------------------------------------------------- who may do it


def _in_parent(path: Path, owner: tuple[int, int], doing: str, work: Callable[[Path], None]) -> None:
    """By root where nobody else can exchange anything on the way or in the parent; else by the owner."""
    parent = Path(os.path.realpath(path.parent))
    if not parent.is_dir():
        raise TargetRefused(f"{path.parent} is not a directory", f"Make it: {path.name} is made in it.")
    # Once true this stays true, for nobody but root could change it: the resolved path holds no link from here on.
    ruled = os.geteuid() == 0 and all(_ruled_by_root(each.lstat()) for each in (parent, *parent.parents))
    real = parent / path.name
    if ruled:
        _answer(_outcome(doing, lambda: work(real)))
    else:
        as_owner(owner, doing, lambda: work(real))


def _ruled_by_root(status: os.stat_result) -> bool:
    """Root's, and nobody else may exchange what root made there (in ``/tmp`` the sticky bit sees to that)."""
    open_to_others = status.st_mode & 0o002 or (status.st_mode & 0o020 and status.st_gid != 0)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and not (open_to_others and not status.st_mode & 0o1000)


def _own_directory(path: Path, owner: tuple[int, int]) -> None:
    try:
        path.mkdir(0o700)
    except FileExistsError:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise TargetRefused(f"{path} is not a directory", "Remove it.") from None
    _take(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW), path, owner, 0o700)


def _own_file(path: Path, owner: tuple[int, int]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise TargetRefused(f"{path} cannot be written: {error.strerror}", "Remove it.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise TargetRefused(f"{path} is not a file", "Remove it.")
    _take(descriptor, path, owner, 0o600)


def _take(descriptor: int, path: Path, owner: tuple[int, int], mode: int) -> None:
    """Owner and mode by descriptor: whatever the name stands for by now."""
    try:
        status = os.fstat(descriptor)
        if status.st_uid not in (0, owner[0]):
            raise TargetRefused(f"{path} belongs to another user (uid {status.st_uid})", "Remove it.")
        if status.st_uid != owner[0]:
            if os.geteuid() != 0:
                raise TargetRefused(
                    f"{path} is root's, in a directory that is not", f"Give it to uid {owner[0]}, or remove it."
                )
            os.fchown(descriptor, *owner)
        if stat.S_IMODE(status.st_mode) != mode:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- the child


def _groups(owner: tuple[int, int]) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(owner[0]).pw_name, owner[1])
    except KeyError:
        return [owner[1]]


def _child(owner: tuple[int, int], groups: list[int], writer: int, doing: str, work: Callable[[], Any]) -> NoReturn:
    """Never returns into the caller's code, and never frees what the parent still uses (its connections)."""
    try:
        gc.disable()
        os.chdir("/")
        os.setgroups(groups)
        os.setresgid(owner[1], owner[1], owner[1])
        os.setresuid(owner[0], owner[0], owner[0])
        os.umask(0o077)
        left = json.dumps(_outcome(doing, work)).encode() + b"\n"
        while left:
            left = left[os.write(writer, left) :]
    finally:
        os._exit(0)


def _outcome(doing: str, work: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": work()}
    except Refused as error:
        return {"refused": [str(error.fields["reason"]), str(error.fields["hint"])]}
    except EngineFailed as error:
        return {"failed": {name: str(value) for name, value in error.fields.items()}}
    except IcecoreError as error:
        return {"failed": {"doing": doing, "reason": error.message}}
    except Exception as error:
        return {"failed": {"doing": doing, "reason": f"{type(error).__name__}: {error}"}}


def _answer(outcome: dict[str, Any]) -> Any:
    if "refused" in outcome:
        raise TargetRefused(*outcome["refused"])
    if "failed" in outcome:
        raise EngineFailed(**outcome["failed"])
    return outcome.get("value")


def _read_line(reader: int, deadline: float) -> bytes:
    """Up to the line's end, the pipe's, or the deadline."""
    answer = bytearray()
    ready = select.poll()
    ready.register(reader, select.POLLIN)
    while not answer.endswith(b"\n"):
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not ready.poll(left_s * 1000):
            break
        piece = os.read(reader, SMALL_BYTES)
        if not piece:
            break
        answer += piece
    return bytes(answer)
