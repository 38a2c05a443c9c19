"""Where a major's server programs are, and which process is the server of a directory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icecore.engines.postgresql.owner import read_small, rights
from icecore.errors import TargetRefused


def candidates(major: str, known: Mapping[str, Any]) -> Iterator[Path]:
    """In this order: what the operator says (``ICECORE_PG_BIN_<major>``), what the source itself ran from, where
    Debian and PGDG's packages put a major, what the PATH has."""
    if os.environ.get(f"ICECORE_PG_BIN_{major}"):
        yield Path(os.environ[f"ICECORE_PG_BIN_{major}"])
    if known.get("binaries_directory"):
        yield Path(known["binaries_directory"])
    yield Path(f"/usr/lib/postgresql/{major}/bin")
    yield Path(f"/usr/pgsql-{major}/bin")
    yield Path(f"/usr/local/pgsql-{major}/bin")
    yield Path("/usr/local/pgsql/bin")
    found = shutil.which("postgres")
    if found:
        yield Path(os.path.realpath(found)).parent


def find(major: str, known: Mapping[str, Any], owner: tuple[int, int] | None = None) -> Path:
    """A directory with ``postgres`` and ``pg_ctl`` of that major. ``owner``: who will run them."""
    for directory in candidates(major, known):
        if (directory / "pg_ctl").exists() and major_of(directory / "postgres", owner) == major:
            return directory
    raise TargetRefused(
        f"no programs of PostgreSQL {major} were found here",
        f"Install them (Debian: postgresql-{major}) or name their directory in ICECORE_PG_BIN_{major}.",
    )


def major_of(postgres: Path, owner: tuple[int, int] | None = None) -> str:
    """ "" when it is not there or does not run. Some candidates are what a source said of itself: a program there may
    be anybody's, so root asks it as its owner-to-be, or as nobody."""
    try:
        answer = subprocess.run(
            [postgres, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            **rights(owner),
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(r"\(PostgreSQL\) (\d+)", answer)
    return match[1] if match else ""


def library_exists(bin_directory: Path, library: str) -> bool:
    """Whether a preload library can be loaded by the server in ``bin_directory``."""
    name = library if library.endswith(".so") else f"{library}.so"
    if name.startswith("/"):
        return Path(name).exists()
    name = name.removeprefix("$libdir/")
    lib = bin_directory.parent / "lib"
    return any((folder / name).exists() for folder in (lib, lib / "postgresql", lib / "plugins"))


def postmaster_of(data_directory: Path) -> int:
    """Process id of the live server of this directory, 0 when there is none.

    A postmaster's working directory is its data directory: a process that merely has the recorded number is not it.
    """
    try:
        pid = int(read_small(data_directory / "postmaster.pid").splitlines()[0])
    except FileNotFoundError:
        return _without_lock(data_directory)
    except (OSError, ValueError, IndexError):
        return 0
    try:
        if Path(f"/proc/{pid}/cwd").samefile(data_directory):
            return pid
    except PermissionError:
        return pid if Path(f"/proc/{pid}").exists() else 0
    except (OSError, OverflowError):
        return 0
    return 0


def _without_lock(data_directory: Path) -> int:
    """A server whose lock file, or whole directory, was removed under it: it notices within a minute."""
    real = os.path.realpath(data_directory)
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and str((entry / "cwd").readlink()) in (real, f"{real} (deleted)"):
                # "1 (postgres) S 0 …": name, state, parent
                name, rest = (entry / "stat").read_text().partition("(")[2].rsplit(") ", 1)
                if name == "postgres":
                    found[int(entry.name)] = int(rest.split()[1])
        except (OSError, ValueError):
            continue  # ended, or not ours to look at
    return next((pid for pid, parent in found.items() if parent not in found), 0)


def belongs_to(pid: int, uid: int) -> bool:
    """Whether a process runs with that user's rights and no others; also True when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("Uid:"):
                return set(line.split()[1:]) == {str(uid)}
    except OSError:
        pass
    return True


def booted_at() -> int:
    """When this machine started, in Unix seconds."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0
