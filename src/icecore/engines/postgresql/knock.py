"""Whether a server lets us in, by its own word: a start-up packet on its socket, and the code it answers with.

libpq gives a failed connection's message only, in the server's language; what matters here is its SQLSTATE: "not yet"
or "never". Source: PostgreSQL's documentation, "Frontend/Backend Protocol", protocol 3.0.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

from icecore.errors import EngineFailed

PROTOCOL_3_0 = 196608
KNOCK_TIMEOUT_S = 10.0
# Cannot connect now, shutting down, crashed and recovering; and all of class 53: out of connections or memory.
NOT_YET = ("57P01", "57P02", "57P03")
_MESSAGE_LIMIT_BYTES = 1 << 20


def knock(path: Path, role: str, database: str) -> str:
    """ "" when a session opens (it is closed again); why not yet. ``EngineFailed``: refused for good."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(KNOCK_TIMEOUT_S)
            door.connect(os.fsencode(path))
            door.sendall(startup_packet(role, database))
            return _listen(door, role)
    except OSError as error:
        return f"{path}: {error}"


def startup_packet(role: str, database: str) -> bytes:
    pairs = ("user", role, "database", database, "application_name", "icecore")
    body = b"".join(os.fsencode(each) + b"\0" for each in pairs) + b"\0"
    return struct.pack("!II", len(body) + 8, PROTOCOL_3_0) + body


def verdict(fields: dict[str, str]) -> str:
    """Why not yet, from an error's fields by their letter; "" for a refusal that stays."""
    code = fields.get("C", "")
    return fields.get("M", code) if code in NOT_YET or code.startswith("53") else ""


def _listen(door: socket.socket, role: str) -> str:
    doing = "connecting to the restored server"
    while True:
        kind, body = _message(door)
        if kind == b"Z":  # ready for a query: the role may log in, the database may be used
            with contextlib.suppress(OSError):
                door.sendall(b"X" + struct.pack("!I", 4))
            return ""
        if kind == b"R" and struct.unpack_from("!I", body)[0] != 0:
            raise EngineFailed(doing=doing, reason=f"it demands a password of {role} on its private socket")
        if kind == b"E":
            found = error_fields(body)
            later = verdict(found)
            if later:
                return later
            raise EngineFailed(doing=doing, reason=f"it refuses {role}: {found.get('M', '')} ({found.get('C', '')})")


def error_fields(body: bytes) -> dict[str, str]:
    parts = body.split(b"\0")
    return {part[:1].decode("ascii", "replace"): part[1:].decode(errors="replace") for part in parts if part}


def _message(door: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(door, 5)
    (length,) = struct.unpack("!I", head[1:])
    if not 4 <= length <= _MESSAGE_LIMIT_BYTES:
        raise OSError("it does not speak PostgreSQL's protocol")
    return head[:1], _exactly(door, length - 4)


def _exactly(door: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        piece = door.recv(count - len(found))
        if not piece:
            raise OSError("it closed the connection")
        found += piece
    return bytes(found)
