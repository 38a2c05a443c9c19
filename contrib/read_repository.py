#!/usr/bin/env python3
# ruff: noqa: T201
"""List and extract backups of an Icecore repository, written from docs/repository-format.md alone.

It shares no code with Icecore, so that a repository can be read when Icecore cannot: it needs Python 3.11 and
the packages blake3, cryptography and zstandard.

    read_repository.py REPO --key-file FILE | --passphrase TEXT | --unencrypted          list
    read_repository.py REPO … BACKUP --to DIR                                            extract
    read_repository.py REPO … --log CLUSTER [--to DIR]                                   list, extract its log
"""

import argparse
import hashlib
import json
import os
import struct
import unicodedata
from pathlib import Path

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def must(condition, what):
    if not condition:
        raise SystemExit(f"damaged or not for this key: {what}")


class Repository:
    def __init__(self, root, secret):
        """``secret``: 32 bytes of a key file, a passphrase as text, or None."""
        self.root = Path(root)
        line = (self.root / "repository").read_bytes()
        facts = self.checked(line, "repository")
        must(facts["format"] == "icecore repository" and facts["version"] == 1, "the format's version")
        self.id, self.block_bytes, self.encrypted = bytes.fromhex(facts["id"]), facts["block_bytes"], facts["encrypted"]
        must(self.encrypted == (secret is not None), "whether it is encrypted")
        data_key = self.unwrap(secret, line) if self.encrypted else bytes(32)
        self.base = data_key + self.id
        self.block_key = blake3(self.base, derive_key_context="icecore v1 block id").digest()

    @staticmethod
    def checked(stored, name):
        line, check, rest = stored.split(b"\n")
        must(blake3(line).hexdigest().encode() == check and not rest, name)
        return json.loads(line)

    def unwrap(self, secret, repository):
        key = self.checked((self.root / "key").read_bytes(), "key")
        salt = bytes.fromhex(key["salt"])
        if key["kind"] == "keyfile":
            must(isinstance(secret, bytes), "it needs a key file")
            wrapping = HKDF(hashes.SHA256(), 32, salt, b"icecore v1 key file").derive(secret)
        else:
            must(isinstance(secret, str), "it needs a passphrase")
            text = unicodedata.normalize("NFC", secret).encode()
            n, r, p = key["n"], key["r"], key["p"]
            wrapping = hashlib.scrypt(text, salt=salt, n=n, r=r, p=p, maxmem=1 << 29, dklen=32)
        return AESGCM(wrapping).decrypt(bytes.fromhex(key["nonce"]), bytes.fromhex(key["wrapped"]), repository)

    def unsealer(self, kind, cluster, data, magic):
        """A function that opens a sealed part, for the object that begins with ``data``."""
        must(data[:8] == magic and data[8:24] == self.id, f"the header of a {kind}")
        return self.unsealer_of(kind, cluster, data[24:56])

    def unsealer_of(self, kind, cluster, salt):
        key = blake3(self.base + salt + cluster.encode(), derive_key_context=f"icecore v1 {kind}").digest()

        def unseal(position, sealed, bound):
            nonce = position.to_bytes(12, "little")
            if self.encrypted:
                return AESGCM(key).decrypt(nonce, sealed, bound)
            data, tag = sealed[:-16], sealed[-16:]
            message = nonce + len(bound).to_bytes(4, "little") + bound + data
            must(blake3(message, key=key).digest(16) == tag, f"a part of a {kind}")
            return data

        return unseal

    # ---- manifests

    def backups(self):
        """(cluster, backup id, facts), as the directories list them."""
        for path in sorted(self.root.glob("clusters/*/manifests/*")):
            if path.read_bytes() != b"no backup\n":
                yield path.parts[-3], path.name, self.manifest(path.parts[-3], path.name)[0]

    def manifest(self, cluster, backup):
        """Facts, block ids of the file sections, block ids of the id sections."""
        name = f"clusters/{cluster}/manifests/{backup}"
        data = (self.root / name).read_bytes()
        unseal = self.unsealer("manifest", cluster, data, b"ICEMANI1")
        facts_bytes, root_bytes = struct.unpack_from("<II", data, 64)
        must(80 + facts_bytes + root_bytes == len(data), name)
        bound = data[:80] + name.encode()
        facts = json.loads(unseal(0, data[80 : 80 + facts_bytes], bound))
        root = unseal(1, data[80 + facts_bytes :], bound)
        file_sections, id_sections = struct.unpack_from("<II", root)
        ids = [root[at : at + 32] for at in range(24, len(root), 32)]
        must(len(ids) == file_sections + id_sections, name)
        return facts, ids[:file_sections], ids[file_sections:]

    # ---- blocks

    def places(self, cluster):
        """Block id -> (pack, salt, position, offset, stored length, plain word), from all indexes."""
        found = {}
        for path in sorted(self.root.glob(f"clusters/{cluster}/indexes/*")):
            data = path.read_bytes()
            must(blake3(data).hexdigest() == path.name, path)
            body = self.unsealer("index", cluster, data, b"ICEINDX1")(0, data[64:], data[:64])
            packs, blocks = struct.unpack_from("<II", body)
            ids_at = 8 + packs * 76
            lengths = struct.unpack_from(f"<{2 * blocks}I", body, ids_at + 32 * blocks)
            block = 0
            for number in range(packs):
                pack, salt, _, count = struct.unpack_from("<32s32sQI", body, 8 + number * 76)
                offset, there = 64, (self.root / "clusters" / cluster / "packs" / pack.hex()).exists()
                for position in range(count):
                    block_id = body[ids_at + 32 * block : ids_at + 32 * block + 32]
                    stored, plain = lengths[block], lengths[blocks + block]
                    if there:
                        found[block_id] = (pack.hex(), salt, position, offset, stored, plain)
                    offset, block = offset + stored, block + 1
        return found

    def block(self, cluster, places, block_id):
        must(block_id in places, f"no index has block {block_id.hex()}")
        pack, salt, position, offset, stored, plain = places[block_id]
        with (self.root / "clusters" / cluster / "packs" / pack).open("rb") as file:
            file.seek(offset)
            sealed = file.read(stored)
        payload = self.unsealer_of("pack", cluster, salt)(position, sealed, block_id + struct.pack("<I", plain))
        data = zstandard.ZstdDecompressor().decompress(payload) if plain >> 31 else payload
        must(len(data) == plain & 0x7FFFFFFF, f"a block in pack {pack}")
        must(blake3(data, key=self.block_key).digest() == block_id, f"a block in pack {pack}")
        return data

    def files(self, cluster, backup):
        """(row of the file table, iterator over the file's blocks). Each iterator is to be used up in turn."""
        _, file_sections, id_sections = self.manifest(cluster, backup)
        places = self.places(cluster)
        ids = b"".join(self.block(cluster, places, section) for section in id_sections)
        used = 0
        for section in file_sections:
            columns = json.loads(self.block(cluster, places, section))
            for values in zip(*columns.values(), strict=True):
                row = dict(zip(columns, values, strict=True))
                count = -(-row["size_bytes"] // self.block_bytes) if row["kind"] == "file" else 0
                own = [ids[at : at + 32] for at in range(used * 32, (used + count) * 32, 32)]
                used += count
                yield row, (self.block(cluster, places, block_id) for block_id in own)
        must(used * 32 == len(ids), "the file table")

    def extract(self, cluster, backup, target):
        target = Path(target)
        target.mkdir(parents=True)
        for row, blocks in self.files(cluster, backup):
            parts = row["path"].split("/")
            must(not {"", ".", ".."} & set(parts), f"path {row['path']!r}")
            path = target.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            if row["kind"] == "file":
                with path.open("xb") as out:
                    out.writelines(blocks)
                os.utime(path, (row["mtime_s"], row["mtime_s"]))
            else:
                path.mkdir(exist_ok=True)  # also for a tablespace: its files follow as files of this directory
            if row["kind"] == "symlink":
                print(f"{row['path']} was a link to {row['target']}")
            path.chmod(row["mode"] if row["kind"] != "symlink" else 0o700)

    # ---- the log

    def log_unit(self, cluster, name):
        """The bytes of one unit."""
        data = (self.root / f"clusters/{cluster}/log" / name).read_bytes()
        must(blake3(data).hexdigest() == name.rpartition("-")[2], name)
        unseal = self.unsealer("log", cluster, data, b"ICELOGU1")
        (facts_bytes,) = struct.unpack_from("<I", data, 64)
        bound = data[:64] + f"clusters/{cluster}/log/{name.rpartition('-')[0]}".encode()
        at = 80 + facts_bytes
        facts = json.loads(unseal(0, data[80:at], bound))
        content = b""
        for number, (block_id, stored, plain) in enumerate(
            zip(facts["ids"], facts["stored"], facts["plain"], strict=True)
        ):
            told = bytes.fromhex(block_id) + struct.pack("<I", plain)
            payload = unseal(number + 1, data[at : at + stored], bound + told)
            block = zstandard.ZstdDecompressor().decompress(payload) if plain >> 31 else payload
            must(len(block) == plain & 0x7FFFFFFF, name)
            must(blake3(block, key=self.block_key).digest() == bytes.fromhex(block_id), name)
            content, at = content + block, at + stored
        must(at == len(data), name)
        return content

    def log(self, cluster):
        """(timeline, first position, bytes) without a hole in each, as long as they go; memory for one is needed."""
        timeline = start = None
        run = bytearray()
        for path in sorted(self.root.glob(f"clusters/{cluster}/log/*")):
            fields = path.name.split("-")
            if fields[1] == "history":
                continue
            line, first, end = (int(field, 16) for field in fields[:3])
            if line != timeline or first > start + len(run):
                if timeline is not None:
                    yield timeline, start, run
                timeline, start, run = line, first, bytearray()
            if end > start + len(run):
                content = self.log_unit(cluster, path.name)
                must(len(content) == end - first, path.name)
                run += content[start + len(run) - first :]
        if timeline is not None:
            yield timeline, start, run

    def extract_log(self, cluster, target):
        for timeline, start, run in self.log(cluster):
            print(timeline, f"{start:x}", f"{start + len(run):x}")
            if target:
                Path(target).mkdir(parents=True, exist_ok=True)
                Path(target, f"{timeline:08x}-{start:016x}").write_bytes(run)
        for path in self.root.glob(f"clusters/{cluster}/log/*-history-*"):
            if target:
                Path(target, path.name[:8].upper() + ".history").write_bytes(self.log_unit(cluster, path.name))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("backup", nargs="?")
    parser.add_argument("--log", metavar="CLUSTER")
    parser.add_argument("--to", help="a directory that does not exist yet")
    secret = parser.add_mutually_exclusive_group(required=True)
    secret.add_argument("--key-file")
    secret.add_argument("--passphrase")
    secret.add_argument("--unencrypted", action="store_true")
    given = parser.parse_intermixed_args()
    key = Path(given.key_file).read_bytes() if given.key_file else given.passphrase
    if given.key_file and len(key) != 32:
        key = bytes.fromhex(key.decode())  # as `icecore repo key export` prints it
    repository = Repository(given.repository, key)
    if given.log:
        return repository.extract_log(given.log, given.to)
    for cluster, backup, facts in repository.backups():
        if given.backup in (None, backup):
            print(cluster, backup, facts["boundary"]["consistent_at"], facts["size_bytes"], facts["engine"])
        if given.backup == backup and given.to:
            repository.extract(cluster, backup, given.to)
    must(not given.to or Path(given.to).exists(), f"there is no backup {given.backup}")
    return None


if __name__ == "__main__":
    main()
