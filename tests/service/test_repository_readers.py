"""Old repositories are read for ever; and a reader that shares no code with ours reads what ours reads."""

from __future__ import annotations

import ast
import hashlib
import json
import random
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from small_repository import CLUSTER, KEY, back_up, everything

from icecore.repository import KeyFile, Passphrase, Reader, Repository, Secret
from icecore.storage.local import LocalStorage

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors" / "repositories"
OTHER_READER = ROOT / "contrib" / "read_repository.py"
EXPECTED = json.loads((VECTORS / "v1-expected.json").read_text())

SECRETS: dict[str, Secret | None] = {
    "keyfile": KeyFile((VECTORS / "v1-keyfile.key").read_bytes()),
    "passphrase": Passphrase((VECTORS / "v1-passphrase.txt").read_text()),
    "unencrypted": None,
}
OPTIONS = {
    "keyfile": ["--key-file", str(VECTORS / "v1-keyfile.key")],
    "passphrase": ["--passphrase", (VECTORS / "v1-passphrase.txt").read_text()],
    "unencrypted": ["--unencrypted"],
}


def listing(reader: Reader) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for file in reader.files():
        content = b"".join(reader.block(file.blocks[at : at + 32]) for at in range(0, len(file.blocks), 32))
        rows.append(asdict(file.meta) | {"sha256": hashlib.sha256(content).hexdigest()})
    return rows


def other(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", OTHER_READER, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def extracted(repo: Path, options: list[str], backup_id: str, target: Path) -> dict[str, bytes | None]:
    """What the other reader lays down: bytes of files, None for directories."""
    done = other(repo, *options, backup_id, "--to", target)
    assert done.returncode == 0, done.stderr
    return {str(path.relative_to(target)): path.read_bytes() if path.is_file() else None for path in target.rglob("*")}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_repository_of_version_1_is_read(kind: str) -> None:
    root = VECTORS / f"v1-{kind}"
    before = sorted(root.rglob("*"))
    repo = Repository.open(LocalStorage(root), SECRETS[kind])
    found = [
        {"facts": asdict(facts), "files": listing(repo.reader(facts.cluster_id, facts.backup_id))}
        for facts in repo.backups()
    ]
    assert json.loads(json.dumps(found)) == EXPECTED
    assert sorted(root.rglob("*")) == before  # reading leaves no trace


@pytest.mark.parametrize("kind", SECRETS)
def test_a_repository_of_version_1_is_read_by_the_other_reader(kind: str, tmp_path: Path) -> None:
    root = VECTORS / f"v1-{kind}"
    listed = other(root, *OPTIONS[kind]).stdout.splitlines()
    assert sorted(line.split()[1] for line in listed) == sorted(entry["facts"]["backup_id"] for entry in EXPECTED)
    for entry in EXPECTED:
        backup_id = entry["facts"]["backup_id"]
        found = extracted(root, OPTIONS[kind], backup_id, tmp_path / backup_id)
        for row in entry["files"]:
            content = found[row["path"]]
            if row["kind"] == "file":
                assert content is not None and hashlib.sha256(content).hexdigest() == row["sha256"]
                assert (tmp_path / backup_id / row["path"]).stat().st_mode & 0o7777 == row["mode"]
            else:
                assert content is None


@pytest.mark.parametrize("kind", SECRETS)
def test_a_repository_of_version_1_takes_new_backups(kind: str, tmp_path: Path) -> None:
    shutil.copytree(VECTORS / f"v1-{kind}", tmp_path / "repo")
    repo = Repository.open(LocalStorage(tmp_path / "repo"), SECRETS[kind])
    with repo.writer(CLUSTER) as writer:
        writer.add_block(random.Random(1).randbytes(3000))
        assert (writer.adopted_blocks, writer.new_bytes) == (1, 0)
    back_up(repo, "31", {"new": b"new"})
    repo.delete_backup(CLUSTER, "2")
    assert repo.collect(CLUSTER).objects_removed > 0
    assert set(everything(repo)) == {"30", "31"}


def test_both_readers_agree_on_random_trees(tmp_path: Path) -> None:
    chance = random.Random(6)
    key_file = tmp_path / "key"
    key_file.write_bytes(KEY.key)
    for number, block_bytes in enumerate((4096, 131_072)):
        root = tmp_path / f"repo-{number}"
        repo = Repository.create(LocalStorage(root), KEY, block_bytes=block_bytes)
        trees = {}
        for backup_id in ("1", "2"):
            tree = {"dir/": b"", "dir/below/": b""}
            for _ in range(40):
                folder = chance.choice(["", "dir/", "dir/below/"])
                size = chance.choice([0, 1, block_bytes, block_bytes * 2 + chance.randrange(5000)])
                piece = chance.randbytes(chance.choice([1, 100, 100_000]))
                tree[folder + f"{chance.getrandbits(60):x}"] = (piece * (size // len(piece) + 1))[:size]
            trees[backup_id] = tree
            back_up(repo, backup_id, tree)
        assert everything(repo) == trees
        for backup_id, tree in trees.items():
            found = extracted(root, ["--key-file", str(key_file)], backup_id, tmp_path / f"{number}-{backup_id}")
            assert found == {
                path.rstrip("/"): None if path.endswith("/") else content for path, content in tree.items()
            }


def test_the_other_reader_refuses_damage_and_wrong_keys(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    shutil.copytree(VECTORS / "v1-keyfile", root)
    wrong = tmp_path / "wrong"
    wrong.write_bytes(bytes(32))
    assert other(root, "--key-file", wrong).returncode != 0
    assert other(root, "--unencrypted").returncode != 0
    assert other(root, "--passphrase", "x").returncode != 0
    for pack in (root / "clusters" / CLUSTER / "packs").iterdir():
        data = bytearray(pack.read_bytes())
        for at in range(64, len(data), 50):
            data[at] ^= 1
        pack.write_bytes(data)
    assert other(root, *OPTIONS["keyfile"], "2", "--to", tmp_path / "out").returncode != 0


def test_the_other_reader_is_short_and_shares_nothing_with_ours() -> None:
    text = OTHER_READER.read_text()
    assert len(text.splitlines()) <= 260
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not {name for name in imported if name.split(".")[0] == "icecore"}
    outside = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert outside == {"blake3", "cryptography", "zstandard"}
