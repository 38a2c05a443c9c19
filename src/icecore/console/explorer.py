"""The Explorer: every operation with its form, its signature step by step, and the call itself.

A page shows one request, signed anew at each visit. *Call* posts these very bytes back (``explorer_bytes``) and gives
them to the gateway as they are; what deletes or changes something is asked for once more before.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.responses import Response

from icecore.api import contract, samples, signature
from icecore.api.contract import Operation
from icecore.console import (
    explorer_bytes,
    explorer_chosen,
    explorer_difference,
    explorer_form,
    explorer_history,
    explorer_rules,
    explorer_shown,
    explorer_signing,
)
from icecore.console.explorer_chosen import Chosen
from icecore.console.explorer_form import Filled
from icecore.console.explorer_signing import Plan
from icecore.console.visit import QUERY_LIMIT_BYTES, Visit
from icecore.errors import IcecoreError, MalformedRequest, RequestTooLarge

LANGUAGE_KEPT_S = 365 * 24 * 3600
KNOWN_AT_MOST = 30
QUERY_LENGTH = 200  # of a search
PASTED_LENGTH = 32 * 1024  # the gateway's limit for a query is that of a string to sign too


@dataclass(frozen=True)
class Called:
    """A call that was made, or (``ask``) that a person must still agree to."""

    request: str
    ask: bool = False
    status: int = 0
    code: str = ""
    request_id: str = ""
    content_type: str = ""
    body: explorer_shown.Body | None = None
    length_bytes: int = 0
    took_ms: int = 0
    at: int = 0


def index(visit: Visit) -> Response:
    """All operations, or those in which each word of ``q`` stands."""
    text = visit.query.get("q", "")[:QUERY_LENGTH].strip()
    return visit.page(
        "explorer.html", title="Explorer", text=text, operations=_search(text), languages=len(samples.LANGUAGES)
    )


def page(visit: Visit) -> Response:
    """One operation. A form posts here what must not stand in an address, a call, or a string to compare."""
    chosen = explorer_chosen.chosen(visit)
    known = _known(visit, chosen.operation)
    if visit.query.get("example") == "1" and visit.method == "GET":
        # what changes something begins with names that do not exist
        real = {} if chosen.operation.mutates else _examples(visit, known)
        chosen = replace(chosen, texts={**explorer_form.example(chosen.operation, real), **_given(chosen.texts)})
    elif visit.query.get("refill"):
        chosen = explorer_history.refill(chosen, _past(visit), visit.query["refill"])
    filled = explorer_form.fill(chosen.operation, chosen.texts)

    # what the page was asked to do
    called, compared = None, None
    match visit.form.get("do", ""):
        case "call":
            chosen, called = replace(chosen, tab="response"), _call(visit, chosen)
        case "compare":
            chosen, compared = replace(chosen, tab="signature"), _compare(visit, chosen, filled)

    # the request as it would be sent now
    signed = explorer_signing.sign(_plan(visit, chosen, filled), visit.doors.key, visit.now, secrets.token_hex(16))
    response = visit.page(
        "explorer_operation.html",
        title=chosen.operation.name,
        operations=_search(""),
        chosen=chosen,
        operation=chosen.operation,
        filled=filled,
        known=known,
        limits=explorer_form.limits,
        type_words=explorer_form.type_words,
        choices={"versions": explorer_signing.VERSIONS, "formats": explorer_signing.FORMATS},
        sends=explorer_signing.SENDS,
        tabs=explorer_chosen.TABS,
        signed=signed,
        request=explorer_bytes.write(signed.request),
        good_until=visit.now + signature.CLOCK_SKEW_S,
        visible=explorer_difference.visible,
        may_call=visit.may_change or not chosen.operation.mutates,
        too_long=len(visit.raw_query) > QUERY_LIMIT_BYTES,
        called=called,
        compared=compared,
        **_TABS[chosen.tab](visit, chosen, filled),
    )
    if (visit.form or visit.query).get("language") == chosen.language:
        response.set_cookie(
            "language",
            chosen.language,
            max_age=LANGUAGE_KEPT_S,
            path="/console",
            secure=visit.scheme == "https",
            httponly=True,
            samesite="lax",
        )
    return response


def _plan(visit: Visit, chosen: Chosen, filled: Filled) -> Plan:
    return Plan(visit.host, chosen.operation.name, filled.pairs, chosen.version, chosen.format, chosen.send)


def _search(text: str) -> list[Operation]:
    words = text.lower().split()
    found = []
    for operation in contract.operations().values():
        names = " ".join(parameter.name for parameter in operation.bound())
        everything = f"{operation.name} {operation.summary} {operation.description} {names}".lower()
        if all(word in everything for word in words):
            found.append(operation)
    return found


def _given(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text}


# ---------------------------------------------------------------- calling


def _call(visit: Visit, chosen: Chosen) -> Called:
    """Make the call whose bytes were shown; nothing is signed or changed here."""
    # these bytes, if they are a call of this operation and the session's own
    request = explorer_bytes.read(visit.form.get("request", ""), visit.host, visit.doors.key.id)
    if explorer_bytes.action(request) != chosen.operation.name:
        raise MalformedRequest(reason="it calls another operation than its page is about")

    # ask first
    text = explorer_bytes.write(request)
    if chosen.operation.mutates and visit.form.get("confirm") != "yes":
        return Called(text, ask=True)

    # do it
    started_s = time.monotonic()
    given = visit.doors.pass_on(request, origin="explorer")
    took_ms = round((time.monotonic() - started_s) * 1000)

    # remember it, without secrets
    answered = given.body.decode("utf-8", "replace")
    sent = request.pairs()
    kept = explorer_shown.masked(chosen.operation, given.content_type, answered)
    visit.doors.backend.records.keep_explored(
        visit.doors.key.id,
        request_id=given.request_id,
        action=chosen.operation.name,
        version="V3" if signature.is_v3(request) else "V1",
        pairs=signature.canonical_query(explorer_shown.masked_pairs(chosen.operation, sent)),
        status=given.status,
        content_type=given.content_type,
        body=explorer_shown.unechoed(chosen.operation, sent, kept)[: explorer_shown.KEPT_LENGTH],
        called_at=visit.now,
        took_ms=took_ms,
    )
    return Called(
        text,
        status=given.status,
        code=given.code,
        request_id=given.request_id,
        content_type=given.content_type,
        body=explorer_shown.body(given.content_type, answered),
        length_bytes=len(given.body),
        took_ms=took_ms,
        at=visit.now,
    )


# ---------------------------------------------------------------- comparing signatures


@dataclass(frozen=True)
class Compared:
    """``difference`` is None for equal strings; ``verdict`` is about the signature, empty if it is right."""

    theirs: str
    server: str
    signature: str
    version: str  # of the pasted string
    difference: explorer_difference.Difference | None
    verdict: str
    took: bool  # timestamp and nonce came from the pasted string


def _compare(visit: Visit, chosen: Chosen, filled: Filled) -> Compared | None:
    pasted = [visit.form.get(name, "") for name in ("theirs", "server", "signature")]
    if max(map(len, pasted)) > PASTED_LENGTH:
        raise RequestTooLarge(limit_bytes=PASTED_LENGTH)
    theirs, server = explorer_difference.cleaned(pasted[0]), explorer_difference.cleaned(pasted[1]).strip()
    given = pasted[2].strip()
    if not theirs.strip():
        return None
    kind = explorer_rules.kind(theirs)
    version = {"v1": "V1", "v3": "V3", "canonical": "V3"}.get(kind, chosen.version)

    # ours: what the server wrote, else the request of the form with their timestamp and nonce
    timestamp, nonce = explorer_difference.taken(theirs)
    strings: tuple[str, ...] = (server,) if server else ()
    if kind == "canonical" and explorer_rules.kind(server) == "v3":
        # under V3 the server tells a hash only: it is that of theirs, or the form has to show where they part
        strings = (theirs, server) if signature.string_to_sign_v3(theirs) == server else ()
    took = not strings and bool(timestamp or nonce)
    if not strings:
        plan = replace(_plan(visit, chosen, filled), version=version)
        at, once = timestamp or contract.write_time(visit.now), nonce or secrets.token_hex(16)
        strings = explorer_signing.sign_at(plan, visit.doors.key, at, once).strings
    ours = explorer_difference.nearest(strings, theirs)
    difference = explorer_difference.explain(ours, theirs)

    # a signature is judged only where the string is right
    verdict = ""
    if difference is None and given:
        signed = _string_to_sign(ours, strings)
        others = tuple(string for string in strings if string != signed)
        verdict = explorer_signing.judge(version, visit.doors.key.secret, (signed, *others), given)
    return Compared(theirs, server, given, version, difference, verdict, took)


def _string_to_sign(ours: str, strings: tuple[str, ...]) -> str:
    """What is signed where ``ours`` was compared: it may be an earlier step."""
    match explorer_rules.kind(ours):
        case "canonical":
            return signature.string_to_sign_v3(ours)
        case "query":
            return next((string for string in strings if explorer_rules.kind(string) != "query"), ours)
    return ours


# ---------------------------------------------------------------- what each tab needs


def _document(visit: Visit, chosen: Chosen, filled: Filled) -> dict[str, Any]:
    operation = chosen.operation
    own, general = explorer_shown.refusals(operation)
    return {
        "answers": list(explorer_shown.described(operation.response)),
        "own_errors": own,
        "general_errors": general,
        "example_json": explorer_shown.example(operation, xml=False),
        "example_xml": explorer_shown.example(operation, xml=True),
    }


def _sample(visit: Visit, chosen: Chosen, filled: Filled) -> dict[str, Any]:
    language = samples.language(chosen.language)
    text = samples.sample(filled.call, visit.endpoint, language.id)
    return {"languages": samples.LANGUAGES, "language": language, "sample": text}


def _signature(visit: Visit, chosen: Chosen, filled: Filled) -> dict[str, Any]:
    return {}


def _response(visit: Visit, chosen: Chosen, filled: Filled) -> dict[str, Any]:
    """The last call of this operation in the chosen format, until there is a new one."""
    same = (call for call in _past(visit) if (call.action, call.format) == (chosen.operation.name, chosen.format))
    return {"last": next(same, None)}


def _history(visit: Visit, chosen: Chosen, filled: Filled) -> dict[str, Any]:
    calls = _past(visit)
    pair = explorer_history.pick(calls, visit.query.get("a", ""), visit.query.get("b", ""))
    return {"calls": calls, "pair": pair, "lines": explorer_history.compare(*pair) if pair else []}


def _past(visit: Visit) -> list[explorer_history.Past]:
    return [explorer_history.past(call) for call in visit.doors.backend.records.explored(visit.doors.key.id)]


_TABS: dict[str, Callable[[Visit, Chosen, Filled], dict[str, Any]]] = {
    "document": _document,
    "sample": _sample,
    "signature": _signature,
    "response": _response,
    "history": _history,
}


# ---------------------------------------------------------------- values that exist here

Values = list[tuple[str, str]]  # value and what it stands for


def _known(visit: Visit, operation: Operation) -> dict[str, Values]:
    """By parameter's inner name, at most ``KNOWN_AT_MOST`` each. Only what the operation's form offers is read."""
    found: dict[str, Values] = {}
    read: dict[str, Values] = {}
    for parameter in operation.bound():
        kind = _KINDS.get(parameter.snake)
        if kind is None:
            continue
        if kind not in read:
            try:
                read[kind] = _READERS[kind](visit)[:KNOWN_AT_MOST]
            except IcecoreError:
                read[kind] = []  # not for this key to see
        found[parameter.snake] = read[kind]
    return found


def _examples(visit: Visit, known: Mapping[str, Values]) -> dict[str, str]:
    """The newest thing of each kind; of the clusters the one that the newest backup is of, so that they fit."""
    found = {name: values[0][0] for name, values in known.items() if values}
    newest = visit.doors.read("DescribeBackupHistory", max_results=1)["items"]["backup"]
    clusters = {name: newest[0]["db_cluster_id"] for name in found if _KINDS[name] == "cluster"} if newest else {}
    return {**found, **clusters}


_KINDS = {
    "db_cluster_id": "cluster",
    "db_cluster_ids": "cluster",
    "source_resource_id": "cluster",
    "backup_id": "backup",
    "backup_job_id": "backup",
    "clone_data_point": "backup",
    "job_id": "job",
    "key_id": "key",
    "call_access_key_id": "key",
    "call_action": "action",
}


def _clusters(visit: Visit) -> Values:
    listed = visit.doors.read("DescribeDBClusters", page_size=30)["items"]["db_cluster"]
    return [(one["db_cluster_id"], one.get("db_cluster_description", "")) for one in listed]


def _backups(visit: Visit) -> Values:
    listed = visit.doors.read("DescribeBackupHistory", max_results=KNOWN_AT_MOST)["items"]["backup"]
    return [(one["backup_id"], f"{one.get('db_cluster_name', '')} {one['backup_status']}") for one in listed]


def _jobs(visit: Visit) -> Values:
    listed = visit.doors.read("DescribeJobs", max_results=KNOWN_AT_MOST)["items"]["job"]
    return [(one["job_id"], f"{one['job_kind']} {one['state']}") for one in listed]


def _keys(visit: Visit) -> Values:
    listed = visit.doors.read("DescribeAccessKeys")["items"]["access_key"]
    return [(one["key_id"], one.get("description", "") or one["role"]) for one in listed]


_READERS: dict[str, Callable[[Visit], Values]] = {
    "cluster": _clusters,
    "backup": _backups,
    "job": _jobs,
    "key": _keys,
    "action": lambda visit: [(name, "") for name in contract.operations()],
}
