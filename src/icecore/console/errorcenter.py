"""The error center: what each code means, and what became of one call.

Open to anybody, since who needs it most cannot sign in. A RequestId is looked up for those who signed in, through the
audit: a call that is not theirs to see and one that never was answer alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from starlette.responses import Response

from icecore.api import contract, explain
from icecore.api.explain import Case, Entry
from icecore.console import view
from icecore.console.acts import PREFIX
from icecore.console.visit import QUERY_LIMIT_BYTES, Visit

SHOWN_LENGTH = 100  # of a code that does not exist
HIDDEN, CUT = "***", "…"  # what the audit writes for a secret, and at the end of what was too long

FAMILIES = {
    "caller": ("bad", "the request", "Sent again unchanged, it gets the same answer."),
    "world": ("warn", "disk, network or database", "The same request may succeed later: try again."),
    "law": ("bad", "a broken rule", "Something that must always hold did not; Icecore stopped before harm was done."),
    "unforeseen": ("bad", "the server", "Nobody foresaw this: the server's log says more than the answer."),
}
PLACES = {
    "job": "as the ErrorCode of a job (DescribeJobs, the Tasks page)",
    "command": "from a command of icecore",
    "console": "on a page of the console",
    "log": "in the server's log",
}


@dataclass(frozen=True)
class LookedUp:
    """``call``: as DescribeCalls gives it; None if there is none that this visitor may see, or nobody signed in."""

    request_id: str
    call: Mapping[str, Any] | None
    sign_in: str  # where to, if nobody has


def index(visit: Visit) -> Response:
    """All codes, or what a search found."""
    text = visit.query.get("q", "").strip()
    found = explain.search(text) if text else None
    wanted = explain.request_id(_asked(visit)) or (found.request_id if found else "")
    looked_up = _look_up(visit, wanted, q=text[: explain.QUERY_LENGTH])

    # a RequestId alone leads to the code that its call was answered with
    best = found.best if found else None
    if best is None and looked_up and looked_up.call:
        best = explain.entries().get(str(looked_up.call.get("result_code")))
    return visit.page(
        "errors.html",
        title="Error center",
        text=text,
        found=found,
        looked_up=looked_up,
        listing=[] if found or looked_up else _listing(),
        too_long=len(visit.raw_query) > QUERY_LIMIT_BYTES,
        **_shown(visit, best),
    )


def one(visit: Visit) -> Response:
    """One code, with the call of the RequestId in the address if there is one."""
    code = visit.part["code"]
    if not code:
        return index(visit)
    entry = explain.entries().get(code)
    if entry is None:
        shown = code if len(code) <= SHOWN_LENGTH else code[:SHOWN_LENGTH] + CUT
        return visit.page(
            "error_missing.html", 404, title="No such code", code=shown, near=explain.nearest(code), text=""
        )
    looked_up = _look_up(visit, explain.request_id(_asked(visit)))
    return visit.page("error.html", title=entry.code, text="", looked_up=looked_up, **_shown(visit, entry))


def _shown(visit: Visit, entry: Entry | None) -> dict[str, Any]:
    """What the templates need to show an entry."""
    return {
        "entry": entry,
        "examples": _examples(visit, entry) if entry else [],
        "prose": prose,
        "replay": replay,
        "family": FAMILIES,
        "places": PLACES,
    }


def _look_up(visit: Visit, request_id: str, **query: str) -> LookedUp | None:
    """The call behind a RequestId; None if no RequestId was given."""
    if not request_id:
        return None
    if not visit.signed_in:
        here = view.link(visit.path, RequestId=request_id, **query)
        return LookedUp(request_id, None, view.link("/console/sign-in", next=here))
    calls = visit.doors.read("DescribeCalls", call_request_id=request_id)["items"]["call"]
    return LookedUp(request_id, calls[0] if calls else None, "")


def _listing() -> list[tuple[str, list[Entry], dict[str, list[Entry]]]]:
    """Group, its codes, and its rows of codes that differ in a parameter's name only."""
    listing = []
    for group in explain.GROUPS:
        single, rows = list[Entry](), dict[str, list[Entry]]()
        for entry in explain.entries().values():
            if entry.group == group:
                (rows.setdefault(entry.pattern, []) if entry.pattern else single).append(entry)
        listing.append((group, single, rows))
    return listing


def _examples(visit: Visit, entry: Entry) -> list[tuple[str, str, str]]:
    """Label, text and Pygments' lexer: the body as this server sends it, and how a job shows the code."""
    case = entry.cases[-1]
    examples = []
    if entry.answered:
        for label, xml in (("JSON", False), ("XML", True)):
            given = explain.example_answer(case, host=visit.host, base_url=visit.endpoint, xml=xml)
            examples.append((f"HTTP {given.status}, {label}", _broken(given.body.decode(), xml=xml), label.lower()))
    if "job" in entry.seen:
        examples.append(("Answer of DescribeJobs", explain.example_job(case), "json"))
    if not examples:
        examples.append(("On the command line", _as_printed(case), "text"))
    return examples


def _broken(body: str, *, xml: bool) -> str:
    """A body with line breaks for the eye; the wire has none."""
    if xml:
        return re.sub(r"(?<=>)(?=<(?!/\w+><))", "\n", body)
    return json.dumps(json.loads(body), indent=2, ensure_ascii=False)


def _as_printed(case: Case) -> str:
    error = case.example()
    return f"error: {error.message}\nhint:  {error.advice()}"


# ---------------------------------------------------------------- pieces of text


def prose(text: str) -> Markup:
    """A text of ours with ``code`` set as such and its way to the Explorer as a link."""
    linked = re.sub(r"/console/explorer\b", '<a href="/console/explorer">/console/explorer</a>', view.prose(text))
    return Markup(linked)


def replay(call: Mapping[str, Any]) -> str:
    """The Explorer's form filled with what the audit kept of a call; empty if it has no form."""
    action = str(call.get("call_action") or "")
    if action not in contract.operations():
        return ""
    known = {parameter.name for parameter in contract.operation(action).parameters}
    fields = {
        PREFIX + str(given["name"]): str(given["value"])
        for given in call.get("call_parameters") or ()
        if str(given["name"]).split(".")[0] in known
        and given["value"] != HIDDEN
        and not str(given["value"]).endswith(CUT)
    }
    return view.link(f"/console/explorer/{action}", **fields)


def _asked(visit: Visit) -> str:
    """The RequestId in the address, as an error body's link has it."""
    return visit.query.get(contract.document()["envelope"]["request_id"], "")
