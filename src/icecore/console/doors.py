"""The two doors of a page into the system, and what it may remember.

``read`` runs a reading operation as the session's key. ``send`` makes a *signed* request, as any client would, and
gives it to the gateway: what a button does anybody can do with an SDK, and both are checked and noted alike.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from icecore.api import client, contract, signature
from icecore.api.answer import Answer
from icecore.api.server import Backend, Caller, Gateway
from icecore.api.signature import AccessKey
from icecore.errors import Forbidden, IcecoreError, InvalidParameter


class Explored(Protocol):
    """One call made from the Explorer, with its answer."""

    @property
    def number(self) -> int: ...
    @property
    def request_id(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def pairs(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def content_type(self) -> str: ...
    @property
    def body(self) -> str: ...
    @property
    def called_at(self) -> int: ...
    @property
    def took_ms(self) -> int: ...


class Records(Protocol):
    """What the console keeps between two pages. Times are Unix seconds."""

    def open_session(self, access_key_id: str, now: int) -> str: ...

    def find_session(self, token: str, now: int, *, used: bool = True) -> str | None: ...

    def close_session(self, token: str) -> None: ...

    def use_link(self, token: str, now: int) -> str | None: ...

    def note_failure(self, address: str, now: int) -> None: ...

    def failures(self, address: str, now: int) -> int: ...

    def keep_explored(self, access_key_id: str, **values: str | int) -> None: ...

    def explored(self, access_key_id: str) -> Sequence[Explored]: ...


class ConsoleBackend(Backend, Protocol):
    """What the console needs of the system behind it: the gateway's needs, and a memory."""

    @property
    def records(self) -> Records: ...


@dataclass(frozen=True)
class Sent:
    """A signed request that was made, and its answer in snake_case. ``error``: the refusal, as the class that was
    raised; ``result`` is empty then."""

    request: signature.Request
    answer: Answer
    result: dict[str, Any]
    error: IcecoreError | None


@dataclass(frozen=True)
class Doors:
    """``host``: as the browser names this server; it is signed under V3 and stands in samples."""

    gateway: Gateway
    backend: ConsoleBackend
    key: AccessKey
    scheme: str
    host: str
    address: str

    def read(self, action: str, **params: Any) -> dict[str, Any]:
        """The result in snake_case; raises what the operation raises. Reading only: it leaves no line in the log."""
        call = contract.bind(action, contract.to_pairs(action, params))
        if call.operation.mutates:
            raise Forbidden()
        return self.backend.run(call, Caller(self.key.id, self.key.role))

    def send(self, action: str, params: Mapping[str, Any]) -> Sent:
        """Sign a call of ``action`` with the session's key and make it. ``params``: snake_case, values as text will do;
        ``InvalidParameter`` for a name the operation does not take. What the call is refused for is ``Sent.error``."""
        try:
            pairs = contract.to_pairs(action, params)
        except KeyError as error:
            raise InvalidParameter(parameter="Form") from error
        request = self.sign(action, pairs)
        answer = self.pass_on(request, origin="console")
        wire = json.loads(answer.body)
        if answer.code:
            message = str(wire[contract.document()["envelope"]["message"]])
            return Sent(request, answer, {}, client.rebuild(answer.code, message, answer.status))
        return Sent(request, answer, contract.parse(action, wire), None)

    def sign(self, action: str, pairs: signature.Pairs, version: str = "V3") -> signature.Request:
        """A request that is valid for fifteen minutes and works once."""
        sign = client.sign_v1 if version == "V1" else client.sign_v3
        credential = (self.key.id, self.key.secret, self.key.security_token or "")
        now = int(self.gateway.clock())
        return sign(self.host, action, pairs, credential, now, secrets.token_hex(16))

    def pass_on(self, request: signature.Request, *, origin: str) -> Answer:
        """The gateway's answer to these very bytes, whoever signed them."""
        return self.gateway.answer(request, scheme=self.scheme, origin=origin, source=self.address)
