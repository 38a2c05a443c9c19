"""PostgreSQL's configuration text: includes, settings, lists of names, marked blocks."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from icecore.engines.postgresql.conffile import (
    block,
    flattened,
    quoted,
    setting_of,
    unquoted,
    value_of,
    with_lists,
    without,
)


class Files:
    def __init__(self, **files: str) -> None:
        self.files = {name.replace("__", "/").replace("_conf", ".conf"): text for name, text in files.items()}

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def names_in(self, path: str) -> Iterable[str]:
        return [name.rpartition("/")[2] for name in self.files if name.rpartition("/")[0] == path.rstrip("/")]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("port = 5432", ("port", "5432")),
        ("  Port 5432 # comment", ("port", "5432")),
        ("work_mem='4 MB'#x", ("work_mem", "4 MB")),
        ("a.b = 'it''s'", ("a.b", "it's")),
        (r"c = 'a\'b\\'", ("c", "a'b\\")),
        ("primary_conninfo = ''", ("primary_conninfo", "")),
        ("# port = 1", None),
        ("", None),
        ("   ", None),
        ("hot_standby = '#not a comment'", ("hot_standby", "#not a comment")),
    ],
)
def test_lines(line: str, found: tuple[str, str] | None) -> None:
    assert setting_of(line) == found


def test_what_is_quoted_is_read_back() -> None:
    for value in ("", "plain", "it's", "back\\slash", "'", "\\'"):
        assert unquoted(quoted(value)) == value


def test_includes_stand_where_they_were_named() -> None:
    files = Files(
        **{
            "/etc/main_conf": "a = 1\ninclude 'x_y'\ninclude_dir = 'conf.d'\n"
            "include_if_exists 'no'\ninclude 'gone'\nb = 2\n",
            "/etc/x_y": "a = 3\n",
            "/etc/conf.d/2_conf": "a = 5\n",
            "/etc/conf.d/1_conf": "a = 4\ninclude '../x_y'\n",
            "/etc/conf.d/.hidden_conf": "a = 9\n",
            "/etc/conf.d/other": "a = 8\n",
            "/etc/conf.d/../x_y": "c = 7",
        }
    )
    text, missing = flattened("/etc/main.conf", files.read, files.names_in)
    assert missing == ["/etc/gone"]
    settings = [found for line in text.splitlines() if (found := setting_of(line))]
    assert settings == [("a", "1"), ("a", "3"), ("a", "4"), ("c", "7"), ("a", "5"), ("b", "2")]
    assert value_of(text, "a") == "5" and value_of(text, "absent") is None


def test_includes_that_go_round_end() -> None:
    files = Files(**{"/r_conf": "include 'r.conf'\na = 1\n"})
    text, missing = flattened("/r.conf", files.read, files.names_in)
    assert not missing and value_of(text, "a") == "1"


def test_a_missing_file_is_named() -> None:
    assert flattened("/no", Files().read, Files().names_in) == ("", ["/no"])


def test_unwanted_settings_are_kept_as_comments() -> None:
    text = without("a = 1\nb = 2\n# a = 3\n", lambda name, value: "old" if (name, value) == ("a", "1") else "")
    assert text == "# a = 1  # icecore: old\nb = 2\n# a = 3\n"
    assert without("", lambda name, value: "x") == ""


def test_a_block_is_replaced_not_repeated() -> None:
    once = block("a = 1\n", "settings", ["b = 2"])
    assert block(once, "settings", ["b = 2"]) == once
    twice = block(block(once, "other", ["c = 3"]), "settings", ["b = 4"])
    assert [found for line in twice.splitlines() if (found := setting_of(line))] == [("a", "1"), ("c", "3"), ("b", "4")]


def test_name_lists_are_written_out() -> None:
    files = Files(**{"/etc/people": "alice, bob # not carol\n@more\n", "/etc/more": '"da ve"\n', "/abs/dbs": "one two"})
    rules = "host @/abs/dbs @people 0/0 md5\n# host @x\nlocal all mail@host peer\nhost all,@gone all 0/0 trust\n"
    text, missing = with_lists("/etc/pg_hba.conf", rules, files.read)
    assert text.splitlines() == [
        'host one,two alice,bob,"da ve" 0/0 md5',
        "# host @x",
        "local all mail@host peer",
        "# host all,@gone all 0/0 trust  # icecore: @gone could not be read",
    ]
    assert missing == ["@gone"]
