"""A server's answer to a start-up packet, told apart by its code and never by its language."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path

import pytest

from icecore.engines.postgresql.knock import knock, startup_packet
from icecore.errors import EngineFailed

WELCOME = b"R" + struct.pack("!II", 8, 0)
READY = b"Z" + struct.pack("!I", 5) + b"I"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def refusal(code: str, text: str) -> bytes:
    return message(b"E", f"SFATAL\0VFATAL\0C{code}\0M{text}\0Fauth.c\0".encode() + b"\0")


def answered(place: Path, answer: bytes) -> str:
    """``knock`` at a server that answers with these bytes, one by one, and hangs up."""
    path = place / ".s.PGSQL.1"
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            guest, _ = listener.accept()
            with guest, contextlib.suppress(BrokenPipeError):  # it hangs up when it knows enough
                heard.append(guest.recv(4096))
                for at in range(len(answer)):
                    guest.sendall(answer[at : at + 1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return knock(path, "röle", "postgres")
        finally:
            thread.join()
            assert heard == [startup_packet("röle", "postgres")]


def test_let_in(tmp_path: Path) -> None:
    status = message(b"S", b"server_version\x0015.1\0")
    assert answered(tmp_path, WELCOME + status + READY) == ""


@pytest.mark.parametrize("code", ["57P03", "57P01", "57P02", "53300"])
def test_not_yet_in_any_language(code: str, tmp_path: Path) -> None:
    assert answered(tmp_path, refusal(code, "das Datenbanksystem startet")) == "das Datenbanksystem startet"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (WELCOME + refusal("28000", "Rolle darf sich nicht anmelden"), "Rolle darf sich nicht anmelden .28000"),
        (refusal("3D000", "no such database"), "3D000"),
        (message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0"), "demands a password"),
    ],
)
def test_never(answer: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=said):
        answered(tmp_path, answer)


@pytest.mark.parametrize(
    ("answer", "said"), [(b"", "closed"), (WELCOME, "closed"), (b"HTTP/1.1 400 Bad Request\r\n", "protocol")]
)
def test_no_answer_is_asked_again(answer: bytes, said: str, tmp_path: Path) -> None:
    assert said in answered(tmp_path, answer)


def test_nobody_there(tmp_path: Path) -> None:
    assert "No such file" in knock(tmp_path / "nothing", "postgres", "postgres")
