"""Passwords, passphrases and keys that a person brings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from icecore import errors
from icecore.cli.output import Output
from icecore.cli.secret import passfile_entry, read_key, server_password

PASSFILE = r"""# host:port:db:user:password
db1:5432:shop:backup:one
db\:1:5432:*:backup:t\\wo\:2
*:6543:*:*:three
*:*:*:other
localhost:5432:postgres:backup:
"""


@pytest.mark.parametrize(
    ("wanted", "password"),
    [
        (("db1", "5432", "shop", "backup"), "one"),
        (("db1", "5432", "crm", "backup"), None),
        (("db:1", "5432", "crm", "backup"), r"t\wo:2"),
        (("any", "6543", "any", "any"), "three"),
        (("x", "1", "y", "other"), None),  # a line without a password
        (("localhost", "5432", "postgres", "backup"), ""),
    ],
)
def test_passfile(wanted: tuple[str, str, str, str], password: str | None) -> None:
    assert passfile_entry(PASSFILE, wanted) == password


@pytest.fixture
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGPASSWORD", "PGPASSFILE", "PGUSER", "PGHOST", "PGPORT", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.usefixtures("_clean")
class TestServerPassword:
    parts = {"host": "db1", "dbname": "shop", "user": "backup"}  # noqa: RUF012

    def test_in_the_dsn_is_refused(self) -> None:
        with pytest.raises(errors.Usage, match="holds a password"):
            server_password({**self.parts, "password": "x"}, ask=False, output=Output())

    def test_environment_before_passfile(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        file = tmp_path / ".pgpass"
        file.write_text(PASSFILE)
        file.chmod(0o600)
        assert server_password(self.parts, ask=False, output=Output()) == "one"
        monkeypatch.setenv("PGPASSWORD", "env")
        assert server_password(self.parts, ask=False, output=Output()) == "env"

    def test_a_passfile_that_others_can_read_is_not_used(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "pass"
        file.write_text(PASSFILE)
        file.chmod(0o640)
        assert server_password({**self.parts, "passfile": str(file)}, ask=False, output=Output()) is None
        assert "chmod 600" in capsys.readouterr().err

    def test_none_is_fine(self) -> None:
        assert server_password(self.parts, ask=False, output=Output()) is None


def test_a_key_is_read_raw_or_in_hex(tmp_path: Path) -> None:
    key = os.urandom(32)
    for data in (key, key.hex().encode(), key.hex().upper().encode() + b"\n"):
        (tmp_path / "k").write_bytes(data)
        assert read_key(tmp_path / "k") == key
    for data in (b"", key[:31], key.hex()[:-2].encode(), b"\xff" * 64):
        (tmp_path / "k").write_bytes(data)
        with pytest.raises(errors.WrongKey):
            read_key(tmp_path / "k")
    with pytest.raises(errors.WrongKey, match="No such file"):
        read_key(tmp_path / "absent")
