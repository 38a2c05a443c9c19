"""Access: the keys, and the audit of what was done with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from icecore.api import contract
from icecore.console import signing_in, view
from icecore.console.errorcenter import replay
from icecore.console.visit import Visit

ROWS = 30
KEYS_SHOWN = 25
KEYS_OFFERED = 100  # to filter by; with more the id is typed
PARAMETERS_SHOWN = 8  # of a call; what is longer is in the Explorer
LETTERS_SHOWN = 100  # of a parameter's value
LINK_LENGTH = 1500  # thirty of them still make a page of a sensible size
EVERY_CALL = "every"  # ``show`` in the address; without it: what changes something


def page(visit: Visit) -> Response:
    keys = visit.doors.read("DescribeAccessKeys")["items"]["access_key"]
    keys.sort(key=lambda key: (key["status"] != "Active", -key["create_time"], key["key_id"]))
    skipped = _number(visit.query.get("keys", ""))
    asked = filters(visit.query)
    calls = visit.doors.read("DescribeCalls", **asked, marker=visit.query.get("after") or None, max_results=ROWS)
    wanted = {name: visit.query.get(name, "").strip() for name in ("show", "key", "action")}
    further = calls.get("next_marker")
    return visit.page(
        "access.html",
        title="Access",
        keys=keys[skipped : skipped + KEYS_SHOWN],
        more_keys=max(0, len(keys) - skipped - KEYS_SHOWN),
        further_keys=view.link("/console/access", keys=skipped + KEYS_SHOWN),
        first_keys="/console/access" if skipped else "",
        offered=keys if len(keys) <= KEYS_OFFERED else [],
        names={key["key_id"]: key.get("description", "") for key in keys},
        found=calls["items"]["call"],
        wanted=wanted,
        actions=[*sorted(contract.operations()), signing_in.SIGN_IN, signing_in.SIGN_OUT],
        every=EVERY_CALL,
        replay=replay,
        parameters_shown=PARAMETERS_SHOWN,
        letters_shown=LETTERS_SHOWN,
        link_length=LINK_LENGTH,
        first=view.link("/console/access", **wanted) if visit.query.get("after") else "",
        next=view.link("/console/access", **wanted, after=further) if further else "",
        calls=visit.calls("DescribeCalls", **asked, max_results=ROWS),
    )


def filters(query: Mapping[str, str]) -> dict[str, Any]:
    """What is asked for. One action says by itself whether it changes something."""
    action, key = query.get("action", "").strip(), query.get("key", "").strip()
    only_changes = query.get("show") != EVERY_CALL and not action
    asked = {"call_action": action, "call_access_key_id": key, "only_changes": only_changes}
    return {name: value for name, value in asked.items() if value}


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
