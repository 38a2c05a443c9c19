"""Sockets, TLS and the life of the server process around the application of ``server.py``."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h11
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.applications import Starlette
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from icecore.api import answer
from icecore.errors import IcecoreError, MalformedRequest, Refused, RequestTooLarge

HEAD_LIMIT_BYTES = 64 * 1024  # request line and headers together
HEAD_TIMEOUT_S = 20  # from the connection, or the answer before, to the end of the next head
GRACE_S = 8  # how long running calls are waited for at the end; with what surrounds it, under 10 s
CERTIFICATE_DAYS = 397  # the longest that browsers accept


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, with a body that clients can read where it would send plain text, and no endless heads."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_head()

    def _await_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def _head_is_late(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        error: IcecoreError = MalformedRequest(reason="it is not HTTP/1.1")
        cause = sys.exception()
        if isinstance(cause, h11.RemoteProtocolError) and cause.error_status_hint == 431:
            error = RequestTooLarge(limit_bytes=HEAD_LIMIT_BYTES)
        given = answer.failure(error, answer.new_request_id(), host="", base_url="", xml=False)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [
                ("content-type", given.content_type),
                ("content-length", str(len(given.body))),
                ("x-acs-request-id", given.request_id),
                ("connection", "close"),
            ]
            for event in (
                h11.Response(status_code=given.status, headers=headers),
                h11.Data(data=given.body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Loop(uvicorn.Server):
    """uvicorn's server, that returns after a signal instead of raising it again: what serves has more to end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Server:
    """A bound server: ``serve`` runs it until ``stop`` or, in the main thread, SIGTERM or SIGINT."""

    def __init__(
        self,
        app: ASGIApp,
        host: str = "127.0.0.1",
        port: int = 0,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
    ) -> None:
        """Binds at once, so that ``port`` is known before anything is announced.

        Errors: ``Refused`` for a taken address or a certificate that does not load.
        """
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=HEAD_TIMEOUT_S,
            timeout_graceful_shutdown=GRACE_S,
            h11_max_incomplete_event_size=HEAD_LIMIT_BYTES,
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
        )
        _load(config, tls_cert, tls_key)
        self._uvicorn = _Loop(config)
        if isinstance(app, Starlette):
            # what sends for as long as somebody listens ends when the server is to stop
            app.state.stopping = lambda: self._uvicorn.should_exit
        self._socket = _bind(host, port)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        # what listens everywhere is announced by a name that a client here can use and a certificate can hold
        name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        self.endpoint = f"{'https' if tls_cert else 'http'}://{name}:{self.port}"

    def serve(self) -> None:
        """Blocks. Running calls are finished before it returns, for ``GRACE_S`` at most."""
        self._uvicorn.run(sockets=[self._socket])

    def stop(self) -> None:
        """From any thread: ``serve`` returns soon after."""
        self._uvicorn.should_exit = True


def run_server(
    app: ASGIApp,
    host: str,
    port: int,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    on_started: Callable[[Server], None] = lambda _: None,
) -> None:
    """Serve ``app`` until stopped. ``on_started`` is told once the port is bound and connections are taken."""
    server = Server(app, host, port, tls_cert, tls_key)
    on_started(server)
    server.serve()


def _load(config: uvicorn.Config, tls_cert: Path | None, tls_key: Path | None) -> None:
    if tls_key and not tls_cert:
        raise Refused("a TLS key without its certificate", "Give --tls-cert too.")
    try:
        config.load()
    except OSError as e:
        raise Refused(f"cannot use the certificate {tls_cert}: {e.strerror or e}", "Both files must be PEM.") from e


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(512)  # from here on a client that was told the port can connect
    except OSError as e:
        bound.close()
        raise Refused(f"cannot listen on {host} port {port}: {e.strerror or e}", "Choose another with --listen.") from e
    return bound


def self_signed(directory: Path) -> tuple[Path, Path]:
    """Certificate and key for this machine, made if they are not there or run out. For a first try.

    The certificate is its own CA: give it to a client as such.
    """
    cert_path, key_path = directory / "tls-cert.pem", directory / "tls-key.pem"
    now = datetime.now(UTC)
    if cert_path.exists() and key_path.exists():
        kept = x509.load_pem_x509_certificate(cert_path.read_bytes())
        if kept.not_valid_after_utc - now > timedelta(days=30):
            return cert_path, key_path

    # the names a client on this machine may use
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
        ]
    )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Icecore self-signed")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )

    # the key is never readable by others, not even for a moment
    directory.mkdir(parents=True, exist_ok=True)
    _write_private(
        key_path,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return cert_path, key_path


def _write_private(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)
