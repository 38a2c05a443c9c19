"""Bodies of answers: JSON or XML, success or error.

Success: the operation's fields in the contract's order, ``RequestId`` first, never a ``Code`` (an old Node client takes
any body with a ``Code`` for an error). Error: ``RequestId, HostId, Code, Message, Recommend``. In XML an object is an
element with its fields inside, and a list is its element repeated.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from icecore.api import contract
from icecore.errors import IcecoreError

JSON_TYPE = "application/json; charset=utf-8"
XML_TYPE = "text/xml;charset=utf-8"  # letter by letter: the V3 clients read an XML error under no other type

# what XML 1.0 cannot carry even as an entity
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes
    request_id: str
    code: str = ""  # empty for a success


def wanted_format(values: set[str], accept: str) -> str:
    """``JSON``, ``XML``, or nothing for a ``Format`` that is neither, or both.

    ``Format=None`` is what the legacy Python client sends when nothing was chosen, and it can read errors in JSON
    only. An ``Accept`` header counts where ``Format`` says nothing, and only if it names XML and not JSON.
    """
    asked = {value.upper() for value in values} - {"", "NONE"}
    if asked:
        return asked.pop() if asked in ({"JSON"}, {"XML"}) else ""
    return "XML" if "xml" in accept.lower() and "json" not in accept.lower() else "JSON"


def new_request_id() -> str:
    return str(uuid.uuid4()).upper()


def success(action: str, result: Mapping[str, Any], request_id: str, *, xml: bool) -> Answer:
    wire = contract.render(action, result, request_id)
    content_type, body = _body(f"{action}Response", wire, xml=xml)
    return Answer(200, content_type, body, request_id)


def failure(error: IcecoreError, request_id: str, *, host: str, base_url: str, xml: bool) -> Answer:
    """``base_url``: where the error center of this server is, as the caller reaches it."""
    names = contract.document()["envelope"]
    code = error.wire_code()
    wire = {
        names["request_id"]: request_id,
        names["host_id"]: host,
        names["code"]: code,
        names["message"]: error.message,
        names["recommend"]: f"{base_url}/errors/{quote(code, safe='')}?{names['request_id']}={quote(request_id)}",
    }
    content_type, body = _body("Error", wire, xml=xml)
    return Answer(error.status, content_type, body, request_id, code)


def _body(root: str, wire: Mapping[str, Any], *, xml: bool) -> tuple[str, bytes]:
    if xml:
        text = f"<?xml version='1.0' encoding='UTF-8'?>{_element(root, wire)}"
        return XML_TYPE, text.encode("utf-8")
    # a file name with undecodable bytes becomes "?" instead of a body that no client can read
    return JSON_TYPE, json.dumps(wire, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _element(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f"<{name}>{''.join(_element(key, inner) for key, inner in value.items())}</{name}>"
    if isinstance(value, list):
        return "".join(_element(name, one) for one in value)
    if isinstance(value, bool):
        return f"<{name}>{str(value).lower()}</{name}>"
    return f"<{name}>{escape(_NOT_XML.sub(chr(0xFFFD), str(value)))}</{name}>"
