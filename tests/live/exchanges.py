"""What the reference shows as request and answer: recorded from a running server, with stand-ins for all that differs
from run to run.

Ids, hosts and paths are replaced by value, wherever they stand; times, sizes and the like by the name of their field.
A stand-in has the type and form of what it stands for. Signatures, nonces and keys are never in a record: a request is
kept as the parameters that were signed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, unescape

from icecore.api.client import Client

Exchange = dict[str, Any]

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "reference"

# By the name of the field; the first that fits. What is empty or zero stays so.
BY_FIELD: tuple[tuple[str, str], ...] = (
    (r"RequestId|CallRequestId", "F3322AFE-083E-4D77-A074-421301A2B3C4"),
    (r"KeySecret|Link(Token)?", "(shown once)"),
    (r"JobUuid", "0b7cc2a9-6a38-4c0e-9d0f-3a1f5b6c7d8e"),
    (r"NextMarker", "Y2FsbDoxMDAw"),
    (r"ConsistentTime", "1794727846"),
    (r"CreateTime|CreationTime", "2026-11-15T07:00:00Z"),
    (r"QueuedTime", "2026-11-15T07:30:04Z"),
    (r"(Backup)?StartTime", "2026-11-15T07:30:05Z"),
    (r"StopTime", "2026-11-15T07:30:47Z"),
    (r"\w*Time", "2026-11-15T07:30:48Z"),
    (r"Day", "2026-11-15"),
    (r"\w*Seconds", "540"),
    (r"TookMs", "8"),
    (r"\w+Ms", "2600"),
    (r"Host", "db7"),
    (r"StoredBytes|TotalLevel2BackupSize", "1159987200"),
    (r"FreeBytes", "82463372288"),
    (r"GrowthBytesPerDay", "115998720"),
    (r"NewBytes|BytesNew", "1187205120"),
    (r"MaxRateBytes", "200000000"),
    (r"BindingPart", "cpu"),
    (
        r"BindingSentence",
        "CPU binds: 71 % of the time went into hashing, compressing and encrypting, 20 % into writing the repository.",
    ),
    (r"\w*Bytes|Bytes(Done|Total)|\w*Size|StorageUsed", "4639948800"),
    (r"FileCount", "1263"),
    (r"ObjectCount", "61"),
    (r"Port", "5433"),
    (r"EngineVersion", "15.18"),
    (r"StartPosition", "0/3000028"),
    (r"StopPosition", "0/3000138"),
    (r"DataDirectory", "/var/lib/postgresql/15/main"),
    (r"Address", "/var/run/postgresql:5432"),
)
# A whole list that differs from run to run
SPENT = [
    {"Part": "cpu", "Milliseconds": 30530, "Percent": 71},
    {"Part": "write", "Milliseconds": 8600, "Percent": 20},
    {"Part": "server", "Milliseconds": 3870, "Percent": 9},
]
# The same in requests, where a name can mean something else.
IN_REQUESTS = {"StartTime": "2026-11-01T00:00Z", "EndTime": "2026-11-30T00:00Z"}


class Recorder:
    """Calls an endpoint and keeps, for each Action, what was sent and answered."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.exchanges: dict[str, list[Exchange]] = {}
        self._known: dict[str, str] = {}

    def stand_in(self, real: str, shown: str) -> None:
        """From now on ``shown`` is written for ``real``, as a word of its own or the beginning of a path."""
        self._known[real] = shown

    def record(
        self, action: str, *pairs: tuple[str, str], title: str = "Success", xml: Iterable[tuple[str, str]] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both answers, the second read from XML into a flat mapping of its leaves. ``xml``: other parameters for the
        second call, where one call cannot be made twice."""
        given = list(pairs)
        in_json = self.client.send_pairs(action, given)
        in_xml = self.client.send_pairs(action, [*(given if xml is None else xml), ("Format", "XML")])
        assert in_json.status == in_xml.status, (action, title, in_json, in_xml)
        assert in_json.body == json.dumps(in_json.wire, ensure_ascii=False, separators=(",", ":")).encode()
        assert in_xml.content_type == "text/xml;charset=utf-8"
        text = in_xml.body.decode()
        leaves = {each.tag: each.text or "" for each in ElementTree.fromstring(text).iter() if not len(each)}
        self.exchanges.setdefault(action, []).append(
            {
                "Title": title,
                "Parameters": dict(given),
                "Status": in_json.status,
                "Json": in_json.wire,
                "Xml": text,
            }
        )
        return in_json.wire, leaves

    def finished(self) -> dict[str, list[Exchange]]:
        """Everything recorded, with all stand-ins: those too that were named after a call was made."""
        return {
            action: [
                {
                    **exchange,
                    "Parameters": {
                        name: IN_REQUESTS.get(name, self._text(value)) for name, value in exchange["Parameters"].items()
                    },
                    "Json": self._tidy("", exchange["Json"]),
                    "Xml": re.sub(r"<(\w+)>([^<]+)</\1>", self._leaf, _spent(exchange["Xml"])),
                }
                for exchange in sorted(exchanges, key=lambda each: each["Title"] != "Success")
            ]
            for action, exchanges in self.exchanges.items()
        }

    def _tidy(self, name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: SPENT if key == "TimeSpent" else self._tidy(key, inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._tidy(name, one) for one in value]
        if isinstance(value, bool) or not value:
            return value
        shown = self._shown(name, str(value))
        return int(shown) if isinstance(value, int) else shown

    def _leaf(self, match: re.Match[str]) -> str:
        name, text = match[1], unescape(match[2])
        shown = text if text in ("0", "true", "false") else self._shown(name, text)
        return f"<{name}>{escape(shown)}</{name}>"

    def _shown(self, name: str, text: str) -> str:
        for pattern, stand_in in BY_FIELD:
            if re.fullmatch(pattern, name):
                return stand_in
        return self._text(text)

    def _text(self, text: str) -> str:
        # the longest first: a path may begin with another
        for real in sorted(self._known, key=len, reverse=True):
            text = re.sub(rf"(?<![\w.-]){re.escape(real)}(?![\w-])", lambda _, real=real: self._known[real], text)
        return re.sub(r"(RequestId=)[0-9A-F-]{36}", rf"\g<1>{BY_FIELD[0][1]}", text)


def _spent(xml: str) -> str:
    one = "<TimeSpent>{}</TimeSpent>"
    parts = (one.format("".join(f"<{name}>{value}</{name}>" for name, value in each.items())) for each in SPENT)
    return re.sub(r"(<TimeSpent>.*?</TimeSpent>)+", "".join(parts), xml)


# ---------------------------------------------------------------- comparing


def shape(value: Any) -> Any:
    """Names, order and types of a JSON answer, without its values. Of a list: each shape that occurs in it."""
    if isinstance(value, Mapping):
        return [[key, shape(inner)] for key, inner in value.items()]
    if isinstance(value, list):
        # how many messages there are depends on the machine
        return ["list of", *_distinct(shape(one) for one in value if isinstance(one, Mapping | list))]
    return type(value).__name__


def shape_xml(text: str) -> Any:
    return _element(ElementTree.fromstring(text))


def _element(element: ElementTree.Element) -> Any:
    return [element.tag, *_distinct(_element(child) for child in element)]


def _distinct(shapes: Iterable[Any]) -> list[Any]:
    return list({json.dumps(each): each for each in shapes}.values())


def outline(exchange: Exchange) -> dict[str, Any]:
    """What of an exchange must be the same in every run: of a refusal all but its ids, of a success its shape."""
    refused = exchange["Status"] != 200
    return {
        **exchange,
        "Json": exchange["Json"] if refused else shape(exchange["Json"]),
        "Xml": exchange["Xml"] if refused else shape_xml(exchange["Xml"]),
    }


# ---------------------------------------------------------------- files


def read(action: str) -> list[Exchange]:
    return list(json.loads((VECTORS / f"{action}.json").read_text(encoding="utf-8"))["Exchanges"])


def write(recorded: Mapping[str, list[Exchange]]) -> None:
    for path in VECTORS.glob("*.json"):
        path.unlink()
    for action, exchanges in recorded.items():
        text = json.dumps({"Action": action, "Exchanges": exchanges}, indent=1, ensure_ascii=False)
        (VECTORS / f"{action}.json").write_text(text + "\n", encoding="utf-8")
