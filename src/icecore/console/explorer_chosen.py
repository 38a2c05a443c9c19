"""What a person chose in the Explorer: an operation, values, signature, and what is shown. All of it is in the page's
address, so that it can be sent to a colleague, except for what may be secret or is too long for one: that is posted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from icecore.api import contract
from icecore.api.contract import Operation
from icecore.api.samples import LANGUAGES
from icecore.console import view
from icecore.console.acts import PREFIX
from icecore.console.explorer_signing import FORMATS, SENDS, VERSIONS
from icecore.console.visit import Visit

TABS = {
    "document": "Document",
    "sample": "Sample",
    "signature": "Signature",
    "response": "Response",
    "history": "History",
}
ADDRESS_LENGTH = 6000  # beyond it the form is posted; some proxies refuse more than 8 KB
LANGUAGE_IDS = tuple(each.id for each in LANGUAGES)


@dataclass(frozen=True)
class Chosen:
    """``texts``: what was typed, by the parameters' names on the wire."""

    operation: Operation
    texts: Mapping[str, str]
    version: str
    format: str
    send: str
    language: str
    tab: str
    required: bool  # optional fields without a value are hidden

    @property
    def path(self) -> str:
        return f"/console/explorer/{self.operation.name}"

    @property
    def posts(self) -> bool:
        """Whether the form must not go through an address."""
        return any(p.private for p in self.operation.bound()) or len(self.address()) > ADDRESS_LENGTH

    def fields(self) -> dict[str, str]:
        """All of it as fields of a form or query; what is so by default is left out."""
        state = {
            "version": self.version if self.version != VERSIONS[0] else "",
            "format": self.format if self.format != FORMATS[0] else "",
            "send": self.send if self.send != _usual_send(self.operation) else "",
            "tab": self.tab if self.tab != "document" else "",
            "required": "1" if self.required else "",
        }
        values = {PREFIX + name: text for name, text in self.texts.items() if text}
        return {**values, **{name: text for name, text in state.items() if text}}

    def address(self, *, also: Mapping[str, str] | None = None, **changes: Any) -> str:
        """Of the same page with ``changes``, and with ``also`` in its query. Private values never stand in one."""
        changed = replace(self, **changes)
        private = {PREFIX + p.name for p in self.operation.bound() if p.private}
        fields = {name: text for name, text in changed.fields().items() if name not in private}
        return view.link(self.path, **{**fields, **(also or {})})


def chosen(visit: Visit) -> Chosen:
    """Of the posted form or the address; what nobody can choose counts as not chosen. ``UnknownAction``."""
    operation = contract.operation(visit.part["action"])
    posted = visit.method == "POST"
    given = visit.form if posted else visit.query
    private = {p.name for p in operation.bound() if p.private and not posted}
    texts = {name.removeprefix(PREFIX): text for name, text in given.items() if name.startswith(PREFIX)}
    return Chosen(
        operation=operation,
        texts={name: text for name, text in texts.items() if name not in private},
        version=_one_of(VERSIONS, given.get("version", "")),
        format=_one_of(FORMATS, given.get("format", "")),
        send=_one_of((_usual_send(operation), *SENDS), given.get("send", "")),
        language=_one_of((_one_of(LANGUAGE_IDS, visit.language), *LANGUAGE_IDS), given.get("language", "")),
        tab=_one_of(tuple(TABS), given.get("tab", "")),
        required=given.get("required", "") == "1",
    )


def _usual_send(operation: Operation) -> str:
    """What may be secret goes into the body: addresses are kept in logs."""
    return "FORM" if any(parameter.private for parameter in operation.bound()) else "POST"


def _one_of(known: tuple[str, ...], given: str) -> str:
    return given if given in known else known[0]
