"""What the call log keeps of a call: enough to understand and repeat it, nothing that is secret. Pure.

Parameters that the contract flags ``private`` become ``***``; those that the operation does not look at are left out,
so a secret under a misspelt name is not kept either. Answers are not kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from icecore.api import contract
from icecore.api.contract import Parameter
from icecore.errors import IcecoreError, SignatureMismatch

HIDDEN = "***"
CUT = "…"  # ends a value that was longer
VALUE_LIMIT_BYTES = 512
MESSAGE_LIMIT_BYTES = 1024
PARAMETERS_LIMIT_BYTES = 4096  # 100,000 calls are kept

Pairs = Sequence[tuple[str, str]]


def parameters(action: str, pairs: Pairs) -> list[tuple[str, str]]:
    """The pairs of a bound call as they go into the log. The last is ``("…", "")`` where there were too many."""
    kept: list[tuple[str, str]] = []
    size_bytes = 0
    for name, value in dict.fromkeys(pairs):
        parameter = _looked_at(action, name)
        if parameter is None or not value:
            continue
        shown = HIDDEN if parameter.private else shortened(value, VALUE_LIMIT_BYTES)
        size_bytes += len(name.encode()) + len(shown.encode())
        if size_bytes > PARAMETERS_LIMIT_BYTES - len(CUT.encode()):
            return [*kept, (CUT, "")]
        kept.append((name, shown))
    return kept


def _looked_at(action: str, name: str) -> Parameter | None:
    """The parameter, or the part of a list's element (``Tag.1.Key``), that the operation reads under this name."""
    whole, *rest = name.split(".")
    for parameter in contract.operation(action).bound():
        if parameter.name != whole:
            continue
        if parameter.type != "list":
            return None if rest else parameter
        # the numbers were checked when the call was bound
        return next((part for part in parameter.fields if len(rest) == 2 and part.name == rest[1]), None)
    return None


def message(error: IcecoreError, action: str = "", pairs: Pairs = ()) -> str:
    """The error's message for the log, empty where it echoes what was signed. ``pairs``: those of a verified call."""
    if isinstance(error, SignatureMismatch):
        return ""
    text = error.message
    if action:
        private = {parameter.name for parameter in contract.operation(action).parameters if parameter.private}
        for name, value in pairs:
            if name in private and value:
                text = text.replace(value, HIDDEN)
    return shortened(text, MESSAGE_LIMIT_BYTES)


def shortened(text: str, limit_bytes: int) -> str:
    """``text`` as UTF-8 can hold it, cut with a mark where it takes more than ``limit_bytes``."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit_bytes:
        return raw.decode()
    return raw[: limit_bytes - len(CUT.encode())].decode("utf-8", "ignore") + CUT
