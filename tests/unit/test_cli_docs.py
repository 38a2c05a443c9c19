"""docs/cli.md names every command, option, exit code and variable, and no option that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

from icecore import config, errors
from icecore.cli import arguments, secret
from icecore.cli.output import failure

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def pages() -> list[arguments.Parser]:
    grammar = arguments.grammar()
    names = [name for group in arguments.GROUPS.values() for name in group]
    return [page for name in names for page in grammar.pages(name)]


def test_every_command_is_named() -> None:
    assert set(arguments.grammar().names()) == {name for names in arguments.GROUPS.values() for name in names}
    for page in pages():
        if page.get_default("run"):
            command = page.prog.removeprefix("icecore ")
            assert re.search(rf"^\| `{command}[ `]", PAGE, re.MULTILINE), command


def test_options_are_those_that_exist() -> None:
    real = {option for page in pages() for action in page._actions for option in action.option_strings}
    real.add("--version")
    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", PAGE))
    assert real - named == set()
    assert named - real == set()


def test_every_exit_code_is_explained() -> None:
    codes = {kind.exit for kind in errors.every_error()} | {0, 3, 9, 130}
    assert codes == {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}


def test_every_variable_is_named() -> None:
    variables = {*config.SETTINGS.values(), "ICECORE_HOME", "ICECORE_SERVER_USER", secret.PASSPHRASE_VARIABLE}
    assert {name for name in variables if f"`{name}`" not in PAGE} == set()


def test_a_failure_has_the_fields_that_are_promised() -> None:
    promised = re.search(r'\{"Type":"Error",(.*?)\}', PAGE)
    assert promised
    assert ["Type", *re.findall(r'"(\w+)"', promised[1])] == list(failure(errors.QuotaExceeded()))
