"""Access keys. A secret must be readable to check an HMAC, so it is sealed under a key that lies beside the catalog."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from icecore import config as home
from icecore import errors
from icecore.catalog import Catalog, tables
from icecore.catalog.intents import now

ROLES = ("admin", "reader")
_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class StoredKey:
    id: str
    secret: str
    enabled: bool
    security_token: str | None
    role: str


def create(catalog: Catalog, role: str, description: str = "", *, security_token: str | None = None) -> StoredKey:
    """A new key; the only time its secret is given out."""
    key_id = "LTAI5" + "".join(secrets.choice(_LETTERS) for _ in range(19))
    secret = "".join(secrets.choice(_LETTERS) for _ in range(30))
    _store(catalog, key_id, secret, role, description, security_token)
    return StoredKey(key_id, secret, True, security_token, role)


def bring_back(catalog: Catalog, key_id: str, secret: str) -> None:
    """Into a catalog without any key (a new one in an old home): the operator's, as the home keeps it."""
    if not every(catalog):
        _store(catalog, key_id, secret, "admin", "operator, from the home", None)


def _store(catalog: Catalog, key_id: str, secret: str, role: str, description: str, security_token: str | None) -> None:
    with catalog.write() as tx:
        tx.execute(
            sa.insert(tables.access_key).values(
                id=key_id,
                sealed_secret=_seal(catalog, key_id, secret),
                security_token=security_token,
                role=role,
                description=description,
                created_at=now(),
            )
        )


def find(catalog: Catalog, key_id: str) -> StoredKey | None:
    with catalog.read() as tx:
        row = tx.execute(sa.select(tables.access_key).where(tables.access_key.c.id == key_id)).first()
    if row is None:
        return None
    return StoredKey(row.id, _unseal(catalog, row.id, row.sealed_secret), row.enabled, row.security_token, row.role)


def every(catalog: Catalog) -> list[sa.Row[Any]]:
    with catalog.read() as tx:
        return list(tx.execute(sa.select(tables.access_key).order_by(tables.access_key.c.created_at.desc())).all())


def revoke(catalog: Catalog, key_id: str) -> None:
    """Disable a key for good. Raises UnknownAccessKey; Refused for the last enabled admin key."""
    with catalog.write() as tx:
        row = tx.execute(sa.select(tables.access_key).where(tables.access_key.c.id == key_id)).first()
        if row is None:
            raise errors.UnknownAccessKey()
        others = sa.select(tables.access_key.c.id).where(
            tables.access_key.c.role == "admin", tables.access_key.c.enabled, tables.access_key.c.id != key_id
        )
        if row.role == "admin" and tx.execute(others).first() is None:
            raise errors.Refused(
                f"{key_id} is the last admin key", hint="Create another first: icecore key create --role admin"
            )
        tx.execute(sa.update(tables.access_key).where(tables.access_key.c.id == key_id).values(enabled=False))


def _seal(catalog: Catalog, key_id: str, secret: str) -> bytes:
    nonce = secrets.token_bytes(12)
    return nonce + _cipher(catalog).encrypt(nonce, secret.encode(), key_id.encode())


def _unseal(catalog: Catalog, key_id: str, sealed: bytes) -> str:
    return _cipher(catalog).decrypt(sealed[:12], sealed[12:], key_id.encode()).decode()


def _cipher(catalog: Catalog) -> AESGCM:
    return AESGCM(home.read_private(catalog.config.catalog_key))
