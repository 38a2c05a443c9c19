"""The command line: ``main`` reads the arguments, runs one command and turns what it raised into an exit code.

Everything heavy is imported by the command that needs it. Results go to stdout, all else to stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from icecore import errors
from icecore.cli import arguments
from icecore.cli.output import Output

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    # What goes wrong before the options are read is reported as they would ask.
    output = Output(json="--json" in words, quiet="--quiet" in words, yes="--yes" in words)
    try:
        options, pairs = arguments.parse(words)
        output = Output(json=options.json, quiet=options.quiet, yes=options.yes)
        options.pairs = pairs
        module, _, function = options.run.partition(":")
        run: Callable[..., int | None] = getattr(importlib.import_module(f"icecore.cli.{module}"), function)
        code = run(options, output) or 0
        sys.stdout.flush()
        return code
    except errors.IcecoreError as error:
        output.failed(error)
        return error.exit
    except KeyboardInterrupt:
        output.say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough (`icecore backups | head`); nothing more can be written, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.IcecoreError.exit
    except OSError as error:
        # Of the home or a file that was named: no permission, no space, not there.
        name, reason = str(error.filename or "a file"), error.strerror or str(error)
        failed = errors.StorageFailed(doing="use", name=name, reason=reason)
        output.failed(failed)
        return failed.exit
    except Exception as error:
        if not output.json:
            traceback.print_exc()
        unexpected = errors.IcecoreError()
        unexpected.message = f"unexpected {type(error).__name__}: {error}"
        output.failed(unexpected)
        return unexpected.exit
