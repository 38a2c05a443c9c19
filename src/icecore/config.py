"""The home: one directory that holds an installation, and the only place that names its parts.

::

    icecore.toml          settings that a person may edit (below)
    catalog.db calls.db   the catalog (with the job queue); nonces and the call log
    credential.json       0600: the operator's access key, used by the CLI
    keys/catalog.key      0600: seals access key secrets in the catalog
    keys/repository.key   0600: opens the repository (absent: passphrase or unencrypted)
    secrets/<cluster>     0600: a database password
    repository/           the repository, unless ``repository`` names another directory
    clusters/<cluster>/   restored servers: data, tablespaces, socket, log; what is in them belongs to their user
    assertions/           what must hold in every copy of a cluster, one TOML file each (docs/verify.md)
    verify/               copies that are being verified; empty otherwise
    images/               which clusters have images beside their data, and where
    servers/              how to run each restored server, and who works on it (locks)
    run/                  locks of live workers, the endpoint while serving, scratch of running jobs

Precedence: environment ``ICECORE_*`` over ``icecore.toml`` over the defaults here.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path

from icecore import cores, errors
from icecore.model import rate_bytes_s

DEFAULT_LISTEN = "127.0.0.1:7480"
SETTINGS = {
    "listen": "ICECORE_LISTEN",
    "repository": "ICECORE_REPOSITORY",
    "region_id": "ICECORE_REGION",
    "encrypted": "ICECORE_ENCRYPTED",
    "threads": "ICECORE_THREADS",
    "images": "ICECORE_IMAGES",
    "log_backup": "ICECORE_LOG_BACKUP",
    "max_rate": "ICECORE_MAX_RATE",
    "background": "ICECORE_BACKGROUND",
    "metrics_token": "ICECORE_METRICS_TOKEN",
}
_YES = ("true", "1", "yes")


@dataclass(frozen=True)
class Config:
    home: Path
    listen: str
    repository: Path
    region_id: str
    encrypted: bool
    threads: int  # that read, hash and compress during a backup or restore
    readers_at_most: int  # so many where they wait for a disk; as ``threads`` where a person set that
    images: bool = True  # where a cluster's file system can share blocks
    log_backup: bool = True  # of the clusters that have it on
    max_rate_bytes_s: int = 0  # that a backup may read; 0: as fast as it goes
    metrics_token: str = ""  # what a scrape of /metrics from elsewhere must bear
    background: bool = False  # a backup's threads get core and disk only when nobody else wants them

    @property
    def catalog_url(self) -> str:
        return f"sqlite:///{self.home / 'catalog.db'}"

    @property
    def calls_url(self) -> str:
        return f"sqlite:///{self.home / 'calls.db'}"

    @property
    def repository_key(self) -> Path:
        return self.home / "keys" / "repository.key"

    @property
    def catalog_key(self) -> Path:
        return self.home / "keys" / "catalog.key"

    @property
    def run(self) -> Path:
        return self.home / "run"

    def cluster_directory(self, cluster_id: str) -> Path:
        return self.home / "clusters" / cluster_id


def default_home() -> Path:
    return Path(os.environ.get("ICECORE_HOME") or Path.home() / ".icecore")


def create(home: Path, *, repository: Path | None = None, encrypted: bool = True, listen: str | None = None) -> Config:
    """Make an empty home. ``Refused`` when something lives there already."""
    if (home / "icecore.toml").exists():
        raise errors.Refused(f"{home} is an Icecore home already", hint=f"Use it: icecore --home {home} status")
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711)  # a restored server's user must pass through; nothing in it can be listed or read
    for name, mode in (("keys", 0o700), ("secrets", 0o700), ("run", 0o700), ("servers", 0o700), ("clusters", 0o711)):
        (home / name).mkdir(mode=mode, exist_ok=True)
        (home / name).chmod(mode)
    write_private(home / "keys" / "catalog.key", secrets.token_bytes(32))
    lines = [
        "# Icecore settings; each can be overridden by ICECORE_<NAME> in the environment.",
        f"listen = {json.dumps(listen or DEFAULT_LISTEN)}",
        f"repository = {json.dumps(str((repository or home / 'repository').absolute()))}",
        'region_id = "local"',
        f"encrypted = {'true' if encrypted else 'false'}",
    ]
    (home / "icecore.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load(home)


def load(home: Path) -> Config:
    """Read an existing home. ``Refused`` names what is wrong with it."""
    home = home.absolute()
    path = home / "icecore.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise errors.Refused(f"{home} is not an Icecore home", hint=f"Make one: icecore --home {home} init") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise errors.Refused(f"{path} cannot be read: {error}", hint="Mend the file.") from error
    for name, variable in SETTINGS.items():
        if variable in os.environ:
            values[name] = os.environ[variable]
    unknown = sorted(set(values) - set(SETTINGS))
    if unknown:
        raise errors.Refused(f"{path} has an unknown setting: {unknown[0]}", hint=f"Known: {', '.join(SETTINGS)}.")
    try:
        said = str(values.get("threads", 0))
        threads = 0 if said.lower() == "auto" else int(said)
    except ValueError as error:
        raise errors.Refused(f"{path}: threads must be a number, or auto", hint="Mend the file.") from error
    return Config(
        home=home,
        listen=str(values.get("listen", DEFAULT_LISTEN)),
        repository=Path(values.get("repository", home / "repository")),
        region_id=str(values.get("region_id", "local")),
        encrypted=str(values.get("encrypted", "true")).lower() in _YES,
        threads=threads if threads > 0 else cores.threads(),
        readers_at_most=threads if threads > 0 else cores.READERS_AT_MOST,
        images=str(values.get("images", "true")).lower() in (*_YES, "auto"),
        log_backup=str(values.get("log_backup", "true")).lower() in (*_YES, "on"),
        max_rate_bytes_s=_rate(str(values.get("max_rate", "0")), path),
        metrics_token=str(values.get("metrics_token", "")),
        background=str(values.get("background", "false")).lower() in _YES,
    )


def _rate(text: str, path: Path) -> int:
    try:
        return rate_bytes_s(text)
    except ValueError as error:
        raise errors.Refused(
            f"{path}: max_rate must be a size such as 50MB, not {text}", hint="Mend the setting."
        ) from error


# ---------------------------------------------------------------- small private files


def write_private(path: Path, data: bytes) -> None:
    """Atomically and durably set a file that only its owner may read."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def read_private(path: Path) -> bytes:
    """The content; ``Refused`` when others may read the file too."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise errors.Refused(f"{path} can be read by others", hint=f"chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise errors.Refused(f"{path} cannot be read: {error.strerror}", hint="Run as the home's owner.") from error


@dataclass(frozen=True)
class Credential:
    access_key_id: str
    access_key_secret: str


def save_credential(config: Config, credential: Credential) -> None:
    write_private(config.home / "credential.json", json.dumps(credential.__dict__).encode())


def operator_credential(config: Config) -> Credential:
    return Credential(**json.loads(read_private(config.home / "credential.json")))


def save_password(config: Config, cluster_id: str, password: str) -> None:
    write_private(config.home / "secrets" / cluster_id, password.encode())


def password(config: Config, cluster_id: str) -> str | None:
    path = config.home / "secrets" / cluster_id
    return read_private(path).decode() if path.exists() else None


def forget_password(config: Config, cluster_id: str) -> None:
    (config.home / "secrets" / cluster_id).unlink(missing_ok=True)


# ---------------------------------------------------------------- the endpoint while serving


@dataclass(frozen=True)
class Endpoint:
    """Where a running server answers. ``ca_file`` is set when it speaks TLS with its own certificate."""

    address: str  # "127.0.0.1:7480"
    scheme: str = "http"
    ca_file: str = ""
    pid: int = 0


def save_endpoint(config: Config, endpoint: Endpoint) -> None:
    write_private(config.run / "endpoint.json", json.dumps(endpoint.__dict__).encode())


def forget_endpoint(config: Config) -> None:
    """Only the process that announced it takes it down."""
    found = endpoint(config)
    if found is not None and found.pid == os.getpid():
        (config.run / "endpoint.json").unlink(missing_ok=True)


def endpoint(config: Config) -> Endpoint | None:
    """Where the home's server last said it answers; it may be gone since (a killed server leaves the note)."""
    try:
        return Endpoint(**json.loads((config.run / "endpoint.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
