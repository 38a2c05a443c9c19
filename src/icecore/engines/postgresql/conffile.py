"""PostgreSQL's configuration grammar, as far as a backup needs it. Pure: text in, text out.

``postgresql.conf``: ``name = value`` or ``name value``; ``#`` begins a comment outside quotes; three directives read
other files. ``pg_hba.conf`` and ``pg_ident.conf`` know the same directives since PostgreSQL 16, and ``@file`` lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

MAX_DEPTH = 10  # CONF_FILE_MAX_DEPTH of guc.h

_SETTING = re.compile(r"^\s*(?P<name>[A-Za-z_][A-Za-z0-9_.$]*)(?:\s*=\s*|\s+|$)(?P<value>.*)$")
_QUOTED = re.compile(r"'(?P<text>(?:[^'\\]|\\.|'')*)'")
_LIST = re.compile(r'(?:(?<=[\s,])|^)@(?:"(?P<quoted>[^"]+)"|(?P<plain>[^\s,"]+))')
_TOKEN = re.compile(r'@?"[^"]*"|[^\s,]+')
INCLUDES = ("include", "include_if_exists", "include_dir")


def setting_of(line: str) -> tuple[str, str] | None:
    """Name in lower case and value without quotes and comment; nothing for a comment or an empty line."""
    match = _SETTING.match(line)
    if match is None:
        return None
    return match["name"].lower(), unquoted(match["value"])


def unquoted(value: str) -> str:
    match = _QUOTED.match(value.strip())
    if match is not None:
        return match["text"].replace("''", "'").replace("\\'", "'").replace("\\\\", "\\")
    return value.split("#", 1)[0].strip()


def quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def flattened(
    path: str,
    read: Callable[[str], str | None],
    names_in: Callable[[str], Iterable[str]],
    *,
    depth: int = 0,
) -> tuple[str, list[str]]:
    """One text with every included file in its place, and what could not be read.

    ``read`` gives a file's text or None; ``names_in`` a directory's names. Later settings win over earlier ones, so
    the order of the includes is kept.
    """
    text = read(path)
    if text is None:
        return "", [path]
    lines: list[str] = []
    missing: list[str] = []
    for line in text.splitlines():
        found = setting_of(line)
        if found is None or found[0] not in INCLUDES or depth >= MAX_DEPTH:
            lines.append(line)
            continue
        name, value = found
        target = _beside(path, value)
        targets = [target]
        if name == "include_dir":
            names = sorted(n for n in names_in(target) if n.endswith(".conf") and not n.startswith("."))
            targets = [f"{target.rstrip('/')}/{n}" for n in names]
        lines.append(f"# {line.strip()}")
        for each in targets:
            inner, unread = flattened(each, read, names_in, depth=depth + 1)
            lines += [f"# begin of {each}", *inner.splitlines(), f"# end of {each}"]
            if name != "include_if_exists":
                missing += unread
    return "\n".join(lines) + "\n", missing


def with_lists(path: str, text: str, read: Callable[[str], str | None]) -> tuple[str, list[str]]:
    """Access rules with each ``@file`` replaced by the names in it; a rule whose list cannot be read is commented out.

    PostgreSQL reads such files beside the rules, where a restored copy does not have them, and then refuses to start.
    """
    lines, missing = [], []
    for line in text.splitlines():
        if line.lstrip().startswith("#") or "@" not in line:
            lines.append(line)
            continue
        unread: list[str] = []

        def names(match: re.Match[str], unread: list[str] = unread) -> str:
            found = _names_in_list(_beside(path, match["plain"] or match["quoted"]), read)
            if found is None:
                unread.append(match[0])
                return match[0]
            return ",".join(found)

        replaced = _LIST.sub(names, line)
        missing += unread
        lines.append(f"# {line.strip()}  # icecore: {unread[0]} could not be read" if unread else replaced)
    return "\n".join(lines) + "\n" if lines else "", missing


def _names_in_list(path: str, read: Callable[[str], str | None], depth: int = 0) -> list[str] | None:
    text = read(path)
    if text is None or depth > MAX_DEPTH:
        return None
    found: list[str] = []
    for line in text.splitlines():
        for token in _TOKEN.findall(line.split("#", 1)[0]):
            if token.startswith("@"):
                inner = _names_in_list(_beside(path, token[1:].strip('"')), read, depth + 1)
                if inner is None:
                    return None
                found += inner
            else:
                found.append(token)
    return found


def _beside(path: str, target: str) -> str:
    return target if target.startswith("/") else f"{path.rsplit('/', 1)[0]}/{target}"


def without(text: str, unwanted: Callable[[str, str], str]) -> str:
    """The text with each setting commented out for which ``unwanted(name, value)`` gives a reason."""
    lines = []
    for line in text.splitlines():
        found = setting_of(line)
        reason = unwanted(*found) if found else ""
        lines.append(f"# {line.strip()}  # icecore: {reason}" if reason else line)
    return "\n".join(lines) + "\n" if lines else ""


def value_of(text: str, name: str) -> str | None:
    """The value that wins: the last one."""
    value = None
    for line in text.splitlines():
        found = setting_of(line)
        if found and found[0] == name:
            value = found[1]
    return value


def block(text: str, mark: str, lines: Iterable[str], *, first: bool = False) -> str:
    """The text with one marked block at its end (or start), in place of an earlier block of that mark."""
    begin, end = f"# begin of icecore's {mark}", f"# end of icecore's {mark}"
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        if line == begin:
            inside = True
        if not inside:
            kept.append(line)
        if line == end:
            inside = False
    ours = [begin, *lines, end]
    return "\n".join([*ours, *kept] if first else [*kept, *ours]) + "\n"
