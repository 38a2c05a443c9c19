"""What a DSN says without connecting."""

from __future__ import annotations

import pytest

from icecore.engines.postgresql import address, refuse_secret
from icecore.errors import InvalidParameter, Refused


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("host=db port=5433", ("db", 5433)),
        ("host=/run/postgresql", ("/run/postgresql", 5432)),
        ("host=a,b port=5432,5433", ("a", 5432)),
        ("host=a,b port=6000", ("a", 6000)),
        ("host=a,b,c port=,5433,5434", ("a", 5432)),
        ("host=,b", ("localhost", 5432)),
        ("hostaddr=10.0.0.1,10.0.0.2 port=1,2", ("10.0.0.1", 1)),
        ("host=/tmp/odd\\ name", ("/tmp/odd name", 5432)),
        ("postgresql://u@h:6543/d", ("h", 6543)),
        ("postgresql://a:1,[::1]:2/d", ("a", 1)),
        ("postgresql://[::1]:2/d", ("::1", 2)),
        ("dbname=x", ("localhost", 5432)),
    ],
)
def test_address(dsn: str, expected: tuple[str, int]):
    assert address(dsn) == expected
    refuse_secret(dsn)


@pytest.mark.parametrize("dsn", ["host=x password=hunter2", "postgresql://u:hunter2@h/d", "host=x sslpassword=hunter2"])
def test_a_secret_is_refused_and_not_repeated(dsn: str):
    with pytest.raises(Refused) as refused:
        refuse_secret(dsn)
    assert "hunter2" not in refused.value.message + refused.value.advice()


@pytest.mark.parametrize("dsn", ["host", "nonsense=1", "postgresql://[::1", "host=a\0 password=hunter2", "host=\udc80"])
def test_what_cannot_be_read_is_refused(dsn: str):
    with pytest.raises(InvalidParameter):
        address(dsn)
    with pytest.raises(Refused) as refused:
        refuse_secret(dsn)
    assert "hunter2" not in refused.value.message + refused.value.advice()


@pytest.mark.parametrize(
    "dsn",
    ["host=a port=x", "host=a port=0", "host=a port=65536", "host=a,b,c port=1,2", "host=a port=1,2", "host=a port=-1"],
)
def test_a_port_that_is_none(dsn: str):
    with pytest.raises(InvalidParameter) as caught:
        address(dsn)
    assert caught.value.wire_code() == "InvalidDSN.Malformed"
