"""What a job's time went into, and what to call it: that which took most of it binds the job."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from icecore.model import JobKind

ALONE = 50  # percent: what took less does not bind alone


class Part(StrEnum):
    READ = "read"  # a backup the server's files, a restore the repository
    NETWORK = "network"
    CPU = "cpu"
    WRITE = "write"  # a backup the repository, a restore the server's files
    SERVER = "server"
    PACE = "pace"


_HEADS = {
    Part.READ: "Reading binds",
    Part.NETWORK: "The network binds",
    Part.CPU: "CPU binds",
    Part.WRITE: "Writing binds",
    Part.SERVER: "The server binds",
    Part.PACE: "The rate limit binds",
}
_BACKUP = {
    Part.READ: "reading the server's files",
    Part.NETWORK: "receiving the server's stream",
    Part.CPU: "hashing, compressing and encrypting",
    Part.WRITE: "writing the repository",
    Part.SERVER: "waiting for the server",
    Part.PACE: "keeping to the rate limit",
}
_RESTORE = _BACKUP | {
    Part.READ: "reading the repository",
    Part.CPU: "decrypting, decompressing and proving",
    Part.WRITE: "writing the server's files",
    Part.SERVER: "waiting for the new server",
}


def percent(spent_ms: Mapping[Part, int], part: Part) -> int:
    return round(100 * spent_ms[part] / sum(spent_ms.values()))


def by_size(spent_ms: Mapping[Part, int]) -> list[Part]:
    """Those that took any time, the largest first."""
    return sorted((part for part, spent in spent_ms.items() if spent > 0), key=lambda part: -spent_ms[part])


def binds(spent_ms: Mapping[Part, int]) -> Part | None:
    parts = by_size(spent_ms)
    return parts[0] if parts and percent(spent_ms, parts[0]) >= ALONE else None


def sentence(spent_ms: Mapping[Part, int], kind: JobKind) -> str:
    """``CPU binds: 71 % of the time went into …, 9 % into ….`` Empty when nothing was measured."""
    parts = by_size(spent_ms)
    if not parts:
        return ""
    words = _BACKUP if kind is JobKind.BACKUP else _RESTORE
    said = [
        f"{percent(spent_ms, part)} %{'' if number else ' of the time went'} into {words[part]}"
        for number, part in enumerate(parts[:2])
    ]
    bound = binds(spent_ms)
    return f"{_HEADS[bound] if bound else 'Nothing binds alone'}: {', '.join(said)}."
