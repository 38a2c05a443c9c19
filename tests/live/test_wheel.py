"""The wheel holds all that an installation needs, and runs where no checkout is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources (the build leaves files beside them), unpacked as pip would."""
    place = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / name)
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "_pagecheck.c")
    shutil.copytree(ROOT / "src", place / "src", ignore=unwanted)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        place,
        ".",
    ]
    subprocess.run(build, cwd=place, check=True, timeout=240)
    (wheel,) = place.glob("icecore-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place / "site"


def test_nothing_is_left_behind(unpacked: Path) -> None:
    source = ROOT / "src" / "icecore"
    unshipped = re.compile(r"__pycache__|\.so$|\.c$")
    wanted = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and not unshipped.search(str(path))
    }
    shipped = {str(path.relative_to(unpacked / "icecore")) for path in (unpacked / "icecore").rglob("*")}
    assert wanted - shipped == set()
    assert {path.name for path in unpacked.glob("icecore-*.dist-info/licenses/*")} == {"LICENSE"}


def test_it_pins_what_it_needs(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    needs = re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata.read_text(), re.MULTILINE)
    assert needs and all("==" in need for need in needs)
    locked = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    for need in needs:
        name, _, version = need.partition("==")
        assert locked[re.sub(r"\[.*\]", "", name)] == version


def test_it_runs(unpacked: Path, tmp_path: Path) -> None:
    """From the unpacked wheel, before the checkout on the path; another directory is the working one."""
    environment = os.environ | {"PYTHONPATH": str(unpacked)}

    def python(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    assert python("-c", "import icecore; print(icecore.__file__)").startswith(str(unpacked))
    made = json.loads(python("-m", "icecore.cli", "--home", str(tmp_path / "home"), "init", "--json"))
    assert made["AccessKeyId"]
    listed = python("-m", "icecore.cli", "--home", str(tmp_path / "home"), "cluster", "list", "--json")
    assert json.loads(listed)["TotalRecordCount"] == 0
