"""Every code that somebody can meet, as one entry each: what the error center shows and searches. Pure.

The tree (``errors``) gives status, message and hint; ``explanations`` cause and steps; the contract says which
operation documents which code. A pattern such as ``Invalid{parameter}.Malformed`` becomes one entry for each parameter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

from icecore import explanations
from icecore.api import answer, contract
from icecore.api.answer import Answer
from icecore.errors import BrokenLaw, CallerError, IcecoreError, InvalidParameter, WorldError, every_error
from icecore.explanations import COMMAND, CONSOLE, FAMILIES, JOB, Explanation

EXAMPLE_REQUEST_ID = "0F2C7B1E-5D3A-4C7E-9B61-2A8D4E6F1C30"
NOT_HERE = "icecore.api.client"  # its class stands for codes of other versions

QUERY_LENGTH = 4000  # of a search; what follows is not looked at
LITERAL_LENGTH = 12  # a message with fewer letters of its own would be found in everything
MOST_FOUND = 30

_FIELD = re.compile(r"\{(\w+)\}")
_UUID = re.compile(r"\b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b")
_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:\.[A-Za-z0-9]+)*")


@dataclass(frozen=True)
class Case:
    """One class of the tree under one code. ``fields``: what the code itself fixes, such as the parameter."""

    kind: type[IcecoreError]
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def why(self) -> Explanation:
        return explanations.explanation(self.kind, dict(self.fields).get("parameter", ""))

    @property
    def status(self) -> int:
        return self.kind.status

    @property
    def retry(self) -> bool:
        return self.kind.retry

    @property
    def exit(self) -> int:
        return self.kind.exit

    @property
    def message(self) -> str:
        """With ``<name>`` where each answer has its own value."""
        return self._filled(_message(self.kind))

    @property
    def shown_message(self) -> str:
        """The message; where each answer has all of it for itself, an example's."""
        return f"such as: {self.example().message}" if re.fullmatch(r"<[\w ]+>", self.message) else self.message

    @property
    def hint(self) -> str:
        """Empty where each answer has its own."""
        return "" if self.kind.hint == "{hint}" else self._filled(self.kind.hint)

    @property
    def cause(self) -> str:
        return self._filled(self.why.cause)

    @property
    def fix(self) -> tuple[str, ...]:
        return tuple(self._filled(step) for step in self.why.fix)

    @property
    def seen(self) -> tuple[str, ...]:
        return self.why.seen

    @property
    def family(self) -> str:
        """``caller``, ``world``, ``law``; ``unforeseen`` for the root of the tree."""
        for parent, word in ((CallerError, "caller"), (WorldError, "world"), (BrokenLaw, "law")):
            if issubclass(self.kind, parent):
                return word
        return "unforeseen"

    def example(self) -> IcecoreError:
        """The error as it could be raised."""
        return self.kind(**{**self.why.example, **dict(self.fields)})

    def _filled(self, template: str) -> str:
        known = dict(self.fields)
        return _FIELD.sub(lambda match: known.get(match[1], f"<{match[1].replace('_', ' ')}>"), template)


@dataclass(frozen=True)
class Entry:
    """Everything about one code. ``operations``: name and status of each that documents it; ``gateway``: statuses that
    any operation may answer it with."""

    code: str
    cases: tuple[Case, ...]
    operations: tuple[tuple[str, int], ...]
    gateway: tuple[int, ...]

    @property
    def answered(self) -> bool:
        """Whether the API documents it; else it is met in jobs, commands or the log only."""
        return bool(self.operations or self.gateway)

    @property
    def over_http(self) -> bool:
        """Whether its status can be seen: also what a job meets can meet a call that reads the same files."""
        return self.answered or bool({JOB, CONSOLE} & set(self.seen))

    @property
    def statuses(self) -> tuple[int, ...]:
        return tuple(sorted({case.status for case in self.cases}))

    @property
    def seen(self) -> tuple[str, ...]:
        """Where else it is met, by the words of ``explanations``."""
        places = tuple(dict.fromkeys(place for case in self.cases for place in case.seen))
        return places if places or self.answered else (COMMAND,)

    @property
    def reasons(self) -> tuple[Case, ...]:
        """One case for each different cause: the same refusal with another status is told once."""
        return tuple({case.cause: case for case in reversed(self.cases)}.values())[::-1]

    @property
    def pattern(self) -> str:
        """``Invalid<Parameter>.Malformed`` if the code is one of a row of codes, else empty."""
        template = self.cases[-1].kind.code
        return _FIELD.sub(lambda match: f"<{match[1].capitalize()}>", template) if "{" in template else ""

    @property
    def group(self) -> str:
        """The heading under which the list has it."""
        first = self.cases[0]
        if first.family == "world":
            return "The server, the database or the storage is in the way"
        if first.family != "caller":
            return "Something that must hold does not"
        if not self.answered:
            return "Commands, jobs and the console"
        if first.exit == 4:
            return "Signature and access"
        if self.gateway or self.code.endswith(".Malformed"):
            return "The request"
        return "Clusters, backups and jobs"

    def documented_by(self, status: int) -> tuple[str, ...]:
        return tuple(name for name, found in self.operations if found == status)


GROUPS = (
    "Clusters, backups and jobs",
    "Signature and access",
    "The request",
    "The server, the database or the storage is in the way",
    "Something that must hold does not",
    "Commands, jobs and the console",
)


# ---------------------------------------------------------------- all codes


@cache
def entries() -> Mapping[str, Entry]:
    """All codes, sorted."""
    documented = _documented()
    gateway = set(contract.gateway_errors())

    # literal codes, then those of the contract's parameters, then what the gateway makes of its patterns
    found: dict[str, dict[Case, None]] = {}
    for kind in _kinds():
        if "{" not in kind.code:
            found.setdefault(kind.code, {})[Case(kind)] = None
    for operation in contract.operations().values():
        for parameter in operation.bound():
            _add(found, parameter.refusal())
    for name in explanations.WHY_PARAMETER:
        _add(found, InvalidParameter(parameter=name))
    for code, status in sorted(set(documented) | gateway):
        if not any(case.status == status for case in found.get(code, ())):
            kind, fields = _of_pattern(code, status)
            found.setdefault(code, {})[Case(kind, fields)] = None

    return {
        code: Entry(
            code,
            tuple(sorted(cases, key=lambda case: case.status)),
            tuple((name, status) for (known, status), names in documented.items() if known == code for name in names),
            tuple(sorted(status for known, status in gateway if known == code)),
        )
        for code, cases in sorted(found.items())
    }


def _kinds() -> list[type[IcecoreError]]:
    return [kind for kind in every_error() if kind not in FAMILIES and kind.__module__ != NOT_HERE]


def _documented() -> dict[tuple[str, int], list[str]]:
    """Operations by the code and status that they document beyond the gateway's."""
    found: dict[tuple[str, int], list[str]] = {}
    for name in contract.operations():
        for pair in contract.documented_errors(name) - set(contract.gateway_errors()):
            found.setdefault(pair, []).append(name)
    return found


def _add(found: dict[str, dict[Case, None]], error: IcecoreError) -> None:
    fixed = _FIELD.findall(type(error).code + _message(type(error)))
    fields = tuple((name, str(value)) for name, value in sorted(error.fields.items()) if name in fixed)
    found.setdefault(error.wire_code(), {})[Case(type(error), fields)] = None


def _of_pattern(code: str, status: int) -> tuple[type[IcecoreError], tuple[tuple[str, str], ...]]:
    """The class whose code is a pattern that makes ``code``. ``LookupError``: the contract has a code of nobody."""
    for kind in _kinds():
        if "{" not in kind.code or kind.status != status:
            continue
        match = re.fullmatch(_FIELD.sub(r"(?P<\1>\\w+)", kind.code.replace(".", r"\.")), code)
        if match:
            return kind, tuple(sorted(match.groupdict().items()))
    raise LookupError(f"no error answers {code} with {status}")


def _message(kind: type[IcecoreError]) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


# ---------------------------------------------------------------- examples


def example_answer(case: Case, *, host: str, base_url: str, xml: bool) -> Answer:
    """The very answer of the API for the case's example."""
    return answer.failure(case.example(), EXAMPLE_REQUEST_ID, host=host, base_url=base_url, xml=xml)


def example_job(case: Case) -> str:
    """What DescribeJobs shows of a job that ended so."""
    error = case.example()
    job = {
        "state": "failed",
        "error_code": error.wire_code(),
        "error_message": error.message,
        "error_hint": error.advice(),
    }
    wire = contract.render("DescribeJobs", {"items": {"job": [job]}}, EXAMPLE_REQUEST_ID)
    return json.dumps(wire, indent=2, ensure_ascii=False)


# ---------------------------------------------------------------- search


@dataclass(frozen=True)
class Found:
    """``best``: the code that was named, or whose message was pasted. ``request_id``: of a pasted body or alone."""

    best: Entry | None
    others: tuple[Entry, ...]
    request_id: str = ""


def search(text: str) -> Found:
    """By code, its beginning, words, a message, or a whole error body in JSON or XML, as an SDK or command shows it."""
    text = " ".join(text[:QUERY_LENGTH].split())
    rest = _UUID.sub(" ", text).strip()
    if not rest:
        return Found(None, (), request_id(text))

    # a code that is named outright, else the message that the text has most of
    best = _named(rest) or next(iter(_by_message(rest)), None)
    others = [entry for entry in (*_by_message(rest), *_by_words(rest)) if entry is not best]
    return Found(best, tuple(dict.fromkeys(others))[:MOST_FOUND], request_id(text))


def request_id(text: str) -> str:
    """The first RequestId in a text, or nothing."""
    found = _UUID.search(text[:QUERY_LENGTH])
    return found[0].upper() if found else ""


def nearest(code: str) -> tuple[Entry, ...]:
    """Entries whose codes look like one that does not exist."""
    by_lower = {known.lower(): entry for known, entry in entries().items()}
    close = get_close_matches(code[:100].lower(), by_lower, n=5, cutoff=0.5)
    return tuple(by_lower[known] for known in close)


def _named(text: str) -> Entry | None:
    by_lower = {code.lower(): entry for code, entry in entries().items()}
    if text.lower() in by_lower:
        return by_lower[text.lower()]
    # inside a longer text only as it is written, "usage" is a word; the field of a body before anything else
    field = re.search(r'(?:"Code"\s*:\s*"|<Code>|\bcode[:=]\s*)([A-Za-z0-9.]{3,100})', text)
    tokens = sorted(_TOKEN.findall(text), key=len, reverse=True)
    for token in ([field[1]] if field else []) + tokens:
        if token in entries():
            return entries()[token]
    return None


def _by_message(text: str) -> list[Entry]:
    """Entries one of whose messages stands in ``text``; those with most letters of their own, and only those."""
    # what JSON and XML make of a quotation mark
    plain = text.replace('\\"', '"').replace("&quot;", '"')
    scored = [
        (score, entry)
        for entry in entries().values()
        if (score := max(_likeness(case.message, plain) for case in entry.cases)) >= LITERAL_LENGTH
    ]
    top = max((score for score, _ in scored), default=0)
    return [entry for score, entry in scored if score == top]


def _likeness(message: str, text: str) -> int:
    """Letters of a message's fixed parts, if they all stand in ``text`` in their order; else 0. Linear in ``text``:
    the page is open to anybody."""
    at = letters = 0
    for part in re.split(r"<[\w ]+>", message):
        found = text.find(part.strip(), at)
        if found < 0:
            return 0
        at = found + len(part.strip())
        letters += len(part.strip())
    return letters


def _by_words(text: str) -> Iterable[Entry]:
    """Entries that have every word somewhere; those with the words in their code first."""
    words = text.lower().split(" ")[:20]
    ranked = []
    for entry in entries().values():
        code = entry.code.lower()
        prose = " ".join(f"{case.message} {case.hint} {case.cause}" for case in entry.cases).lower()
        if all(word in code for word in words):
            ranked.append((0 if code.startswith(words[0]) else 1, entry))
        elif all(word in f"{code} {prose}" for word in words):
            ranked.append((2, entry))
    return [entry for _, entry in sorted(ranked, key=lambda pair: (pair[0], pair[1].code))]
