"""What a command prints and where: results on stdout, talk on stderr, JSON when asked for."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Mapping
from typing import Any

from icecore import errors


class Output:
    def __init__(self, *, json: bool = False, quiet: bool = False, yes: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self.yes = yes

    @property
    def live(self) -> bool:
        """Whether a line may be redrawn for a person who looks on."""
        return sys.stderr.isatty() and not self.json and not self.quiet

    def result(self, text: str, document: Mapping[str, Any]) -> None:
        """What was asked for: ``text`` for a person, or ``document`` on one line."""
        shown = json.dumps(document, ensure_ascii=False) if self.json else text.rstrip("\n")
        if shown:
            print(shown, flush=True)

    def line(self, kind: str, document: Mapping[str, Any]) -> None:
        """One of the JSON lines of a command that takes time."""
        if self.json:
            print(json.dumps({"Type": kind, **document}, ensure_ascii=False), flush=True)

    def say(self, text: str) -> None:
        """Talk, which a script does not read."""
        if text and not self.quiet and not self.json:
            print(text.rstrip("\n"), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        if self.json:
            self.line("Warning", {"Message": text})
        else:
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def failed(self, error: errors.IcecoreError) -> None:
        """The last words: on stderr always, in JSON as one object."""
        if self.json:
            shown = json.dumps(failure(error), ensure_ascii=False)
        else:
            shown = f"error: {error.message}"
            if error.advice():
                shown += f"\nhint:  {error.advice()}"
            if request_id(error):
                shown += f"\n       RequestId {request_id(error)}"
        print(shown, file=sys.stderr, flush=True)

    def confirm(self, question: str) -> None:
        """Go on only after a yes. Without a terminal and without ``--yes`` nothing is done: ``Usage``."""
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise errors.Usage(reason=f"{question} Nobody is there to answer: say --yes")
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise errors.Refused("not confirmed", hint="Nothing was changed.")

    def ask_secret(self, prompt: str, variable: str) -> str:
        """A secret typed at a terminal. ``variable`` is what a script sets instead."""
        if not sys.stdin.isatty():
            raise errors.Usage(reason=f"{prompt}: nobody is there to type it; set {variable}")
        return getpass.getpass(f"{prompt}: ")


def failure(error: errors.IcecoreError) -> dict[str, Any]:
    return {
        "Type": "Error",
        "Code": error.wire_code(),
        "Message": error.message,
        "Hint": error.advice(),
        "RequestId": request_id(error),
        "ExitCode": error.exit,
    }


def request_id(error: errors.IcecoreError) -> str:
    """Of the call that failed; empty where no server was asked."""
    return str(getattr(error, "request_id", ""))
