"""How a command reaches the operations: a signed call to the home's server, or the same call in this process.

Both give an ``Answer``: ``calls("DescribeJobs", job_id="17")`` takes and gives snake_case, and the wire's own object is
kept beside it for ``--json``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icecore import config as home
from icecore import errors
from icecore.api import contract

if TYPE_CHECKING:
    from icecore.api.client import Client
    from icecore.app import App


@dataclass(frozen=True)
class Answer:
    action: str
    result: dict[str, Any]  # snake_case
    wire: dict[str, Any]  # as a client of the API sees it

    def part(self, *path: str) -> Any:
        """An object inside the wire's answer, by its snake_case path: ``part("backup")``. None if it is not there."""
        found: Any = self.wire
        for name in path:
            found = next((value for key, value in found.items() if contract.snake(key) == name), None)
            if found is None:
                return None
        return found


class Calls:
    """One home's operations. Decides once, at the first call, whether a server is there."""

    def __init__(self, place: Path | None) -> None:
        self.config = home.load(place or home.default_home())
        self._client: Client | None = None
        self._app: App | None = None

    def __call__(self, action: str, **params: Any) -> Answer:
        return self.pairs(action, contract.to_pairs(action, params))

    def pairs(self, action: str, pairs: list[tuple[str, str]]) -> Answer:
        """With parameters as they go over the wire."""
        if self._app is None and self._client is None:
            self._client = self._find_server()
        if self._client is not None:
            try:
                return self._ask_server(self._client, action, pairs)
            except errors.ServerUnreachable as error:
                if not _may_do_without(error.__cause__):
                    raise
                self._client = None
        call = contract.bind(action, pairs)
        result = self.app.run(call)
        wire = contract.render(action, result, _request_id())
        return Answer(action, contract.parse(action, wire), wire)

    @property
    def app(self) -> App:
        """The home, opened in this process."""
        if self._app is None:
            from icecore.app import App

            self._app = App(self.config)
        return self._app

    @property
    def endpoint(self) -> str:
        """Where a server of this home answers, or would."""
        found = home.endpoint(self.config)
        return f"{found.scheme}://{found.address}" if found else f"http://{self.config.listen}"

    def served(self) -> bool:
        """Whether a server of this home is running."""
        found = home.endpoint(self.config)
        return found is not None and _lives(found.pid)

    def close(self) -> None:
        if self._app is not None:
            self._app.close()

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ the server

    def _find_server(self) -> Client | None:
        found = home.endpoint(self.config)
        if found is None or not self.served():
            return None
        from icecore.api.client import Client

        key = _credential(self.config)
        ca_file = Path(found.ca_file) if found.ca_file else None
        endpoint = f"{found.scheme}://{found.address}"
        return Client(endpoint, key.access_key_id, key.access_key_secret, ca_file=ca_file)

    def _ask_server(self, client: Client, action: str, pairs: list[tuple[str, str]]) -> Answer:
        reply = client.send_pairs(action, pairs)
        if reply.error is not None:
            reply.error.request_id = reply.request_id  # type: ignore[attr-defined]  # shown with the error
            raise reply.error
        return Answer(action, contract.parse(action, reply.wire), reply.wire)

    # ------------------------------------------------------------ somebody who works

    def worker_lives(self) -> bool:
        """Whether any process of this home runs jobs: a worker holds a lock on a file of its name."""
        with contextlib.suppress(OSError):
            return any(_is_locked(path) for path in (self.config.run / "workers").iterdir())
        return False

    @contextlib.contextmanager
    def working(self) -> Iterator[bool]:
        """While inside, jobs are run: by whoever does already, else by this process (then it gives True)."""
        if self.worker_lives():
            yield False
            return
        from icecore.serve import log_to_stderr
        from icecore.worker import Worker

        log_to_stderr("error")  # what becomes of the job is shown by whoever follows it
        worker = Worker(self.config, self.app.catalog)
        worker.start()
        try:
            yield True
        finally:
            worker.stop()


def _credential(config: home.Config) -> home.Credential:
    """The environment's key, else the operator's from the home."""
    access_key_id = os.environ.get("ALIBABA_CLOUD_ACCESS_KEY_ID", "")
    secret = os.environ.get("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "")
    return home.Credential(access_key_id, secret) if access_key_id and secret else home.operator_credential(config)


def _may_do_without(cause: BaseException | None) -> bool:
    """Whether the same call in this process is as good as the server's answer: it was surely not carried out there.

    A killed server leaves its note behind and nobody listens; a certificate for another name than 127.0.0.1 (a proxy's,
    a public one) cannot be checked from here.
    """
    return isinstance(cause, ConnectionRefusedError) or type(cause).__name__ == "SSLCertVerificationError"


def _request_id() -> str:
    import uuid

    return str(uuid.uuid4()).upper()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
