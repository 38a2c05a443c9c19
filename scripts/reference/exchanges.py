"""What a server was asked and answered, as ``tests/live/test_reference.py`` recorded it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree


@dataclass(frozen=True)
class Exchange:
    title: str
    parameters: Mapping[str, str]
    status: int
    wire: Mapping[str, Any]
    xml: str

    @property
    def code(self) -> str:
        """Of a refusal; empty for a success."""
        return "" if self.status == 200 else str(self.wire["Code"])

    @property
    def json_text(self) -> str:
        return json.dumps(self.wire, indent=2, ensure_ascii=False)

    @property
    def xml_text(self) -> str:
        """Indented; a server sends it without line breaks."""
        declaration, _, _ = self.xml.partition("?>")
        root = ElementTree.fromstring(self.xml)
        ElementTree.indent(root)
        return f"{declaration}?>\n{ElementTree.tostring(root, encoding='unicode', short_empty_elements=False)}"


def read(place: Path) -> dict[str, list[Exchange]]:
    """By Action; of each, a success first."""
    found = {}
    for path in sorted(place.glob("*.json")):
        raw = json.loads(path.read_text(encoding="utf-8"))
        found[raw["Action"]] = [
            Exchange(each["Title"], each["Parameters"], each["Status"], each["Json"], each["Xml"])
            for each in raw["Exchanges"]
        ]
    return found
