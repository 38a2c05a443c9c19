"""Made the repositories beside it once. A format version's vectors are never made again: they are read for ever.

python tests/vectors/repositories/make.py NEW_DIRECTORY
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "service"))

from small_repository import CLUSTER, back_up, facts_of

from icecore.model import FileKind, FileMeta
from icecore.repository import KeyFile, Passphrase, Repository, StoredFile
from icecore.storage.local import LocalStorage

KEY = bytes(range(32))
PHRASE = "correct horse ünder"
CHANCE = random.Random(1)
FIRST = {"base/": b"", "base/1": CHANCE.randbytes(3000), "base/2": b"only in the first " * 300}
TREE: dict[str, bytes] = {
    "base/": b"",
    "base/1": FIRST["base/1"],
    "base/empty": b"",
    "base/exact": b"8192 bytes, two blocks. " * 341 + b"01234567",
    "base/text": b"compresses well, " * 500,
    "base/zeros": bytes(20_001),
    "odd \udcff\n\u2603": b"a name that is not UTF-8",
}
LINK = FileMeta("pg_tblspc/16384", FileKind.SYMLINK, 0o777, 0, 0, "/srv/space")
BEYOND_LINK = FileMeta("pg_tblspc/16384/PG_15_202209061", FileKind.DIRECTORY, 0o700)


def make(root: Path, secret: KeyFile | Passphrase | None) -> list[dict[str, object]]:
    repo = Repository.create(LocalStorage(root), secret, block_bytes=4096)
    back_up(repo, "1", FIRST)
    back_up(repo, "2", TREE)
    repo.delete_backup(CLUSTER, "1")
    repo.collect(CLUSTER)
    with repo.writer(CLUSTER) as writer:
        ids = writer.add_block(TREE["base/1"])
        files = [StoredFile(meta, b"") for meta in (LINK, BEYOND_LINK)]
        files.append(StoredFile(FileMeta("base/1", FileKind.FILE, 0o640, 1_700_000_001, 3000), ids))
        writer.commit(facts_of("30", {"base/1": TREE["base/1"]}), files)
    for private in ("tmp", "leases"):
        shutil.rmtree(root / private)
    expected = []
    for facts in repo.backups():
        reader = repo.reader(CLUSTER, facts.backup_id)
        rows = []
        for file in reader.files():
            content = b"".join(reader.block(file.blocks[at : at + 32]) for at in range(0, len(file.blocks), 32))
            rows.append(asdict(file.meta) | {"sha256": hashlib.sha256(content).hexdigest()})
        expected.append({"facts": asdict(facts), "files": rows})
    return expected


def main() -> None:
    place = Path(sys.argv[1])
    secrets = {"keyfile": KeyFile(KEY), "passphrase": Passphrase(PHRASE, scrypt_n=1024), "unencrypted": None}
    listings = [make(place / f"v1-{name}", secret) for name, secret in secrets.items()]
    assert listings[0] == listings[1] == listings[2]
    (place / "v1-expected.json").write_text(json.dumps(listings[0], indent=1) + "\n")
    (place / "v1-keyfile.key").write_bytes(KEY)
    (place / "v1-passphrase.txt").write_text(PHRASE)


if __name__ == "__main__":
    main()
