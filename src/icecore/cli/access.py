"""icecore console and icecore key: create, list, revoke."""

from __future__ import annotations

import time
from argparse import Namespace

from icecore import errors
from icecore.cli import screens
from icecore.cli.calls import Calls
from icecore.cli.output import Output


def console(options: Namespace, output: Output) -> None:
    """For the key in the environment, else the operator's. Only a running server has a console to open."""
    with Calls(options.home) as calls:
        if not calls.served():
            raise errors.Refused("no server of this home is running", hint="Start it: icecore serve")
        answer = calls("CreateConsoleLink")
        link = f"{calls.endpoint}/console/sign-in?link={answer.result['link_token']}"
        output.result(link, {**answer.wire, "Link": link})
        output.say("It signs you in once, within ten minutes.")


def create(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        answer = calls("CreateAccessKey", role=options.role, description=options.description)
        made = answer.result
        output.result(
            screens.facts([("AccessKeyId", made["key_id"]), ("AccessKeySecret", made["key_secret"])]), answer.wire
        )
        output.say("The secret is shown this once.")


def list_(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        answer = calls("DescribeAccessKeys")
        output.result(screens.keys(answer.result, time.time()), answer.wire)


def revoke(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        output.confirm(f"Disable {options.key} for good? Whoever uses it is refused from now on.")
        answer = calls("RevokeAccessKey", key_id=options.key)
        output.result(f"{options.key} is disabled.", answer.wire)
