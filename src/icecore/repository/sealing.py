"""Keys: who may open a repository, and the key that each object is sealed under.

A random data key lies in the object ``key``, wrapped under a key file or a passphrase. Every object has a random
salt and so a key of its own, derived from data key, repository, kind, cluster and salt; inside it the nonce is the
position. No nonce repeats under a key whatever the amount of data (random nonces under one key would end at 2^32
blocks by NIST SP 800-38D §8.3), and an object put in another's place does not open. Without encryption the data key
is 32 zero bytes and sealing only appends a tag: it finds damage, it does not stop a forger.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from icecore.errors import Damaged, Usage, WrongKey
from icecore.storage import Buffer

KEY_BYTES = 32
SALT_BYTES = 32
TAG_BYTES = 16
ID_BYTES = 16  # a repository's
SCRYPT_N = 1 << 17  # with r=8, p=1: 128 MiB and about half a second; OWASP Password Storage Cheat Sheet's first choice
SCRYPT_R, SCRYPT_P = 8, 1
SCRYPT_MEMORY_LIMIT_BYTES = 1 << 28  # 128·n·r of a stored key object: more is refused, not allocated
SMALL_OBJECT_LIMIT_BYTES = 4096  # `repository` and `key`


@dataclass(frozen=True)
class KeyFile:
    """32 random bytes, kept in a file outside the repository."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise Usage(reason=f"a key file holds {KEY_BYTES} bytes, not {len(self.key)}")


@dataclass(frozen=True)
class Passphrase:
    """Text (compared in Unicode normal form C). ``scrypt_n`` is used when wrapping; opening uses the stored one."""

    text: str = field(repr=False)
    scrypt_n: int = SCRYPT_N

    def __post_init__(self) -> None:
        if not self.text:
            raise Usage(reason="the passphrase is empty")


Secret = KeyFile | Passphrase


class Sealer:
    """Seals and opens the parts of one object. ``position`` is unique within it. Safe for threads."""

    def __init__(self, key: bytes, *, encrypted: bool) -> None:
        self._key = key
        self._cipher = AESGCM(key) if encrypted else None

    def seal_into(self, position: int, data: Buffer, bound: bytes, out: memoryview) -> None:
        """Write ``len(data) + TAG_BYTES`` bytes to ``out``. ``bound`` is authenticated, not stored."""
        nonce = position.to_bytes(12, "little")
        if self._cipher is not None:
            self._cipher.encrypt_into(nonce, data, bound, out)
        else:
            out[:-TAG_BYTES] = data
            out[-TAG_BYTES:] = self._tag(nonce, data, bound)

    def seal(self, position: int, data: Buffer, bound: bytes) -> bytes:
        out = bytearray(len(data) + TAG_BYTES)
        self.seal_into(position, data, bound, memoryview(out))
        return bytes(out)

    def open(self, position: int, sealed: Buffer, bound: bytes, name: str) -> bytes:
        """The data; ``Damaged(name)`` if anything differs from what was sealed here."""
        nonce = position.to_bytes(12, "little")
        if len(sealed) >= TAG_BYTES:
            if self._cipher is None:
                view = memoryview(sealed)
                if self._tag(nonce, view[:-TAG_BYTES], bound) == bytes(view[-TAG_BYTES:]):
                    return bytes(view[:-TAG_BYTES])
            else:
                try:
                    return self._cipher.decrypt(nonce, sealed, bound)
                except InvalidTag:
                    pass
        raise Damaged(name=name, reason=f"its part {position} does not match its tag")

    def _tag(self, nonce: bytes, data: Buffer, bound: bytes) -> bytes:
        tag = blake3(nonce, key=self._key)
        tag.update(len(bound).to_bytes(4, "little"))
        tag.update(bound)
        tag.update(data)
        return tag.digest(TAG_BYTES)


class Keyring:
    """All keys of one open repository."""

    def __init__(self, data_key: bytes | None, repository_id: str) -> None:
        """``data_key`` is None for a repository without encryption."""
        self.encrypted = data_key is not None
        self.repository_id = bytes.fromhex(repository_id)
        self.data_key = data_key
        self._root = (data_key or bytes(KEY_BYTES)) + self.repository_id
        self.block_key = blake3(self._root, derive_key_context="icecore v1 block id").digest()

    def sealer(self, kind: str, cluster_id: str, salt: bytes) -> Sealer:
        """``kind``: "pack", "index", "manifest" or "evidence"."""
        material = self._root + salt + cluster_id.encode()
        key = blake3(material, derive_key_context=f"icecore v1 {kind}").digest()
        return Sealer(key, encrypted=self.encrypted)


# ---------------------------------------------------------------- the object `key`


def wrap(data_key: bytes, secret: Secret, repository: bytes) -> bytes:
    """The object ``key``. ``repository``: the object of that name, which the wrapping is bound to."""
    salt, nonce = os.urandom(SALT_BYTES), os.urandom(12)
    facts: dict[str, Any] = {"kind": "keyfile", "salt": salt.hex(), "nonce": nonce.hex()}
    if isinstance(secret, Passphrase):
        facts |= {"kind": "passphrase", "n": secret.scrypt_n, "r": SCRYPT_R, "p": SCRYPT_P}
    wrapping_key = _wrapping_key(secret, facts)
    facts["wrapped"] = AESGCM(wrapping_key).encrypt(nonce, data_key, repository).hex()
    return checked_line(facts)


def unwrap(stored: bytes, secret: Secret, repository: bytes) -> bytes:
    """The data key; ``WrongKey`` if ``secret`` is not the one, ``Damaged`` if the object is not as written."""
    facts = read_line(stored, "key")
    try:
        wrapping_key = _wrapping_key(secret, facts)
        nonce, wrapped = bytes.fromhex(facts["nonce"]), bytes.fromhex(facts["wrapped"])
        if len(nonce) != 12 or len(wrapped) != KEY_BYTES + TAG_BYTES:
            raise Damaged(name="key", reason="a field has the wrong length")
        return AESGCM(wrapping_key).decrypt(nonce, wrapped, repository)
    except InvalidTag as error:
        raise WrongKey(reason="it is not the one the repository was closed with") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise Damaged(name="key", reason="a field is missing or malformed") from error


def _wrapping_key(secret: Secret, facts: Mapping[str, Any]) -> bytes:
    salt = bytes.fromhex(facts["salt"])
    if isinstance(secret, KeyFile):
        if facts["kind"] != "keyfile":
            raise WrongKey(reason="it was made with a passphrase, not a key file")
        return HKDF(hashes.SHA256(), KEY_BYTES, salt, b"icecore v1 key file").derive(secret.key)
    if facts["kind"] != "passphrase":
        raise WrongKey(reason="it was made with a key file, not a passphrase")
    n, r, p = facts["n"], facts["r"], facts["p"]
    if not (type(n) is type(r) is type(p) is int and n > 1 and r > 0 and 0 < p <= 16 and n & (n - 1) == 0):
        raise Damaged(name="key", reason="its scrypt parameters are malformed")
    if 128 * n * r > SCRYPT_MEMORY_LIMIT_BYTES:
        raise Damaged(name="key", reason="its scrypt parameters ask for too much memory")
    return Scrypt(salt, KEY_BYTES, n, r, p).derive(unicodedata.normalize("NFC", secret.text).encode())


# ---------------------------------------------------------------- small plain objects


def checked_line(facts: Mapping[str, Any]) -> bytes:
    """One line of JSON and one line with its BLAKE3: readable by eye, and a flipped bit is seen."""
    line = json.dumps(facts, separators=(",", ":")).encode()
    return line + b"\n" + blake3(line).hexdigest().encode() + b"\n"


def read_line(stored: bytes, name: str) -> dict[str, Any]:
    line, _, rest = stored.partition(b"\n")
    if rest != blake3(line).hexdigest().encode() + b"\n":
        raise Damaged(name=name, reason="its checksum differs")
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Damaged(name=name, reason="it is not JSON") from error
    if not isinstance(facts, dict):
        raise Damaged(name=name, reason="it is not a JSON object")
    return facts
