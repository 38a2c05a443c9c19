"""icecore call: any action, or the same call in another language."""

from __future__ import annotations

import json
from argparse import Namespace

from icecore import errors
from icecore.api import contract
from icecore.cli.calls import Calls
from icecore.cli.output import Output


def call(options: Namespace, output: Output) -> None:
    # Names, values and required parameters are checked here as the server would, before anything is sent or printed.
    known = {each.name for each in contract.operation(options.action).parameters}
    for name, _ in options.pairs:
        if name.split(".")[0] not in known:
            raise errors.Usage(reason=f"{options.action} has no parameter {name}")
    bound = contract.bind(options.action, options.pairs)
    with Calls(options.home) as calls:
        if options.language:
            from icecore.api.samples import sample

            output.result(sample(bound, calls.endpoint, options.language), {"Sample": ""})
            return
        answer = calls.pairs(options.action, options.pairs)
        output.result(json.dumps(answer.wire, ensure_ascii=False, indent=2), answer.wire)
