"""A directory that is to become a backup again: is it a copy of that cluster, and does nobody use it?"""

from __future__ import annotations

import os
import re
import stat
import struct
from pathlib import Path

from icecore.engines import RestoreTarget
from icecore.engines.postgresql import binaries
from icecore.engines.postgresql.control import CONTROL_PATH
from icecore.engines.postgresql.owner import read_small
from icecore.errors import TargetRefused
from icecore.model import BackupFacts

_SEGMENT = re.compile(r"[0-9A-F]{24}")
_ELSEWHERE = "Restore into a new or an empty directory instead."


def refuse_unless_copy(facts: BackupFacts, target: RestoreTarget, *, unfinished: bool) -> None:
    data, known = target.data_directory, facts.engine_facts
    # 1. Directories, reached by no link: what lies behind one may be somebody else's.
    for directory in (data, *target.tablespaces.values()):
        _refuse_link(directory)
    _refuse_link(data / "pg_wal")
    if not data.is_dir():
        raise TargetRefused(f"{data} is not there", "Without --delta it is made anew.")
    if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        raise TargetRefused(f"{data} may not be written", "Run as its owner, or as root.")
    # 2. Of this cluster.
    if not unfinished and str(known["system_identifier"]) not in _identifiers(data):
        raise TargetRefused(f"{data} holds no copy of {facts.cluster_name}", _ELSEWHERE)
    # 3. Each tablespace is empty, or the one that this copy leads to.
    for link, directory in target.tablespaces.items():
        names = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
        strange = [name for name in names if not name.startswith(f"PG_{known['major']}_") and name != "lost+found"]
        if strange:
            raise TargetRefused(f"{directory} holds {strange[0]}, which is no tablespace's", _ELSEWHERE)
        if names and not unfinished and os.path.realpath(data / link) != os.path.realpath(directory):
            raise TargetRefused(
                f"{directory} is not where {data / link} leads", "Name that directory, or an empty one."
            )
    # 4. Not in use.
    refuse_live(data)


def refuse_live(data: Path) -> None:
    """Also a server in a container, whose process has another number here, and children that outlived their parent."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (entry / "cwd").samefile(data):
                name = (entry / "comm").read_text().strip()
                if name.startswith(("postgres", "postmaster")):
                    raise TargetRefused(f"a server (process {entry.name}) runs in {data}", "Stop it.")
        except OSError:
            continue  # ended, or not ours to look at
    try:
        lines = read_small(data / "postmaster.pid").splitlines()
        pid, written_at = int(lines[0]), int(lines[2])
    except FileNotFoundError:
        return
    except (OSError, ValueError, IndexError):
        raise TargetRefused(
            f"{data}/postmaster.pid cannot be read", "If no server uses it, remove that file."
        ) from None
    if written_at >= binaries.booted_at() and Path(f"/proc/{pid}").exists():
        raise TargetRefused(
            f"{data}/postmaster.pid names process {pid}, which runs", "If no server uses it, remove that file."
        )


def inside(directory: Path, other: Path) -> bool:
    real, above = os.path.realpath(directory), os.path.realpath(other)
    return real == above or real.startswith(above + "/")


def _refuse_link(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        what = "a link" if stat.S_ISLNK(mode) else "not a directory"
        raise TargetRefused(f"{path} is {what}", f"Name the directory itself. {_ELSEWHERE}")


def _identifiers(data: Path) -> set[str]:
    """Of the cluster that files here come from: its control file's, whole or not, or those of its log. 64 bits that are
    the same are no accident, so a checksum is not asked for: the copy may be damaged."""
    found = {_number_at(data / CONTROL_PATH, 0)}
    log = data / "pg_wal"
    if log.is_dir():
        # XLogLongPageHeaderData: the identifier follows 24 bytes of the short header
        found |= {_number_at(entry, 24) for entry in log.iterdir() if _SEGMENT.fullmatch(entry.name)}
    return found - {""}


def _number_at(path: Path, offset: int) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        found = os.pread(descriptor, 8, offset)
        return str(struct.unpack("<Q", found)[0]) if len(found) == 8 else ""
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def refuse_foreign_places(target: RestoreTarget) -> None:
    """Two directories must not be one, nor a tablespace's lie in the data."""
    directories = [target.data_directory, *target.tablespaces.values()]
    if len({os.path.realpath(each) for each in directories}) != len(directories):
        raise TargetRefused("two directories of the target are the same", "Name a directory for each.")
    for directory in target.tablespaces.values():
        if inside(directory, target.data_directory):
            raise TargetRefused(
                f"tablespace directory {directory} lies inside the data directory", "Name one outside of it."
            )
