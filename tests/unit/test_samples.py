"""Samples as texts: what they say, how they quote, and that a caller's value changes nothing but its own literal.

That they run, parse and compile is shown in ``tests/live/test_samples.py``.
"""

from __future__ import annotations

import ast
import json
import shlex
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pygments.lexers import get_lexer_by_name
from pygments.token import Error

from icecore.api import contract
from icecore.api.samples import LANGUAGES, Language, literals, sample
from icecore.cli import arguments
from icecore.errors import Usage

HOSTILE = 'it\'s "$HOME" `id` $(touch /tmp/x) ${x} #{x} #$x \\ %s {0} ??/ <?php ?> </script> * ; & | é 備 \u202e #!'
ENDPOINTS = ("http://127.0.0.1:8080", "https://[::1]:8443", "https://backup.example.com/")
# what a database's or a file's name can hold; a NUL can stand in no command and no C string
TEXTS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=40)
QUOTES = {
    "python": literals.python,
    "python-legacy": literals.python,
    "java": literals.java,
    "go": literals.go,
    "typescript": literals.javascript,
    "nodejs": literals.javascript,
    "nodejs-legacy": literals.javascript,
    "php": literals.php,
    "csharp": literals.csharp,
    "cpp": literals.cpp,
    "ruby": literals.ruby,
    "aliyun": literals.shell,
    "icecore": literals.shell,
}


def example(op: contract.Operation) -> contract.Call:
    """A call with every parameter of the operation, lists included."""
    pairs = [(p.name, p.example) for p in op.bound() if p.type != "list"]
    for p in op.bound():
        if p.type == "list":
            pairs += [(f"{p.name}.{n}.{field.name}", f"{field.name}-{n}") for n in (1, 2) for field in p.fields]
    return contract.bind(op.name, pairs)


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda each: each.id)
def test_every_operation_has_a_complete_sample(language: Language) -> None:
    began, written = time.process_time(), 0
    for op in contract.operations().values():
        for call in (example(op), contract.Call(op.name)):
            for endpoint in ENDPOINTS:
                text = sample(call, endpoint, language.id)
                written += 1
                assert text.endswith("\n") and "«" not in text and "\n\n\n" not in text, text
                assert op.name in text
                # where: the home knows it for icecore's own command
                host = endpoint.partition("//")[2].rstrip("/")
                assert host in text or language.id == "icecore"
                # who: from the environment, which both command lines read by themselves
                for variable in ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"):
                    assert variable in text or language.id in ("aliyun", "icecore")
                # with what: in the first lines, as a comment
                opening = "\n".join(text.splitlines()[:2])
                assert any(
                    word in opening for word in ("install", "needs:", "Maven:", "go get", "composer", "dotnet", "git")
                )
    assert (time.process_time() - began) / written < 0.002


def test_a_language_is_one_that_others_know() -> None:
    assert tuple(each.id for each in LANGUAGES) == arguments.LANGUAGES
    assert len(set(arguments.LANGUAGES)) == len({each.label for each in LANGUAGES}) == len(LANGUAGES) >= 9
    call = contract.bind("CreateBackup", [("DBClusterId", "pc-1"), ("Comment", HOSTILE)])
    for each in LANGUAGES:
        tokens = get_lexer_by_name(each.lexer).get_tokens(sample(call, ENDPOINTS[0], each.id))
        assert not [text for kind, text in tokens if kind is Error], each.id


def test_unknown_language() -> None:
    with pytest.raises(Usage, match="cobol"):
        sample(contract.bind("DescribeRegions", []), "http://h", "cobol")


# ---------------------------------------------------------------- values


@given(TEXTS)
def test_a_value_survives_its_literal(text: str) -> None:
    """Where Python has a reader of the language's literals; real ones are asked in tests/live."""
    assert ast.literal_eval(literals.python(text)) == text
    assert json.loads(literals.javascript(text)) == text
    assert shlex.split(literals.shell(text)) == [text]


@given(TEXTS)
def test_a_literal_shows_what_it_holds(text: str) -> None:
    """Whatever cannot be seen is escaped, so a copied sample is the one that was read."""
    for name in QUOTES.keys() - {"aliyun", "icecore"}:
        assert QUOTES[name](text).isprintable(), name
    assert literals.java(text).isascii()


@given(TEXTS.filter(lambda text: text and not text.startswith("-")))
@pytest.mark.parametrize("name", QUOTES)
def test_a_value_changes_nothing_but_its_literal(name: str, text: str) -> None:
    """So nothing can be injected where the literal is sound."""
    for action, field in (("CreateBackup", "comment"), ("CreateAccessKey", "description")):
        params: dict[str, Any] = {"db_cluster_id": "pc-1"} if action == "CreateBackup" else {"role": "reader"}
        quote, marker = QUOTES[name], "Marker1"
        shape = sample(contract.Call(action, {**params, field: marker}), ENDPOINTS[0], name)
        assert shape.count(quote(marker)) == 1
        assert sample(contract.Call(action, {**params, field: text}), ENDPOINTS[0], name) == shape.replace(
            quote(marker), quote(text)
        )


def test_aliyun_words() -> None:
    def words(action: str, pairs: list[tuple[str, str]], endpoint: str = "http://127.0.0.1:8080") -> list[str]:
        return shlex.split(sample(contract.bind(action, pairs), endpoint, "aliyun"), comments=True)

    place = ["--endpoint", "127.0.0.1:8080", "--region", "cn-hangzhou"]
    given: list[tuple[str, str]] = [("DBClusterId", "pc-1")]
    expected = ["aliyun", "polardb", "CreateBackup", "--DBClusterId", "pc-1", *place]
    assert words("CreateBackup", given) == [*expected, "--insecure"]
    assert words("CreateBackup", given, "https://127.0.0.1:8080") == expected
    # its metadata has neither Comment nor our own operations
    forced = ["--insecure", "--force", "--version", "2017-08-01"]
    comment = HOSTILE.replace("\u202e", "")
    commented: list[Any] = [*given, ("Comment", comment)]
    assert words("CreateBackup", commented) == [*expected[:5], "--Comment", comment, *place, *forced]
    dashed: list[Any] = [*given, ("ClientToken", "-v=1")]
    assert words("CreateBackup", dashed) == [*expected[:5], "--ClientToken=-v=1", *place, "--insecure"]
    assert words("DescribeRepository", []) == ["aliyun", "polardb", "DescribeRepository", *place, *forced]


def test_icecore_words() -> None:
    call = contract.bind("CreateBackup", [("DBClusterId", "pc-1"), ("Comment", "--help"), ("ClientToken", "a b")])
    words = shlex.split(sample(call, ENDPOINTS[0], "icecore"), comments=True)
    assert words[:3] == ["icecore", "call", "CreateBackup"]
    _, pairs = arguments.parse(words[1:])
    assert sorted(pairs) == [("ClientToken", "a b"), ("Comment", "--help"), ("DBClusterId", "pc-1")]
