"""Samples: each one shown is one that runs, also with values meant to break it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from simulated_backend import SimulatedBackend, serving

from icecore.api import contract
from icecore.api.samples import LANGUAGES, sample
from icecore.api.server import Server
from icecore.errors import Usage

HOSTILE = 'it\'s "$HOME" `id` $(touch /tmp/x) \\ %s {0} * ; & | é #!'
CALLS = {
    "CreateBackup": [("DBClusterId", "pc-1"), ("Comment", HOSTILE), ("ClientToken", "a'b\"c\\d %41+$(id)")],
    "DescribeBackups": [
        ("DBClusterId", "pc-1"),
        ("StartTime", "2026-11-01T00:00Z"),
        ("EndTime", "2026-11-30T00:00:01Z"),
        ("PageSize", "50"),
    ],
    "DescribeDBClusters": [
        ("DBClusterIds", "pc-1,pc-2"),
        ("Tag.1.Key", HOSTILE),
        ("Tag.1.Value", "v"),
        ("Tag.2.Key", "k"),
    ],
    "RegisterDBCluster": [
        ("DBClusterDescription", "shop"),
        ("Engine", "postgresql"),
        ("ConnectionString", "host='/a b' user=\"x\" " + HOSTILE),
    ],
    "DescribeRepository": [],
}
ENVIRONMENT = {
    **os.environ,
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "testid",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "testsecret",
    "NO_PROXY": "127.0.0.1",
}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[SimulatedBackend, Server]]:
    backend = SimulatedBackend(time.time())
    with serving(backend) as server:
        yield backend, server


@pytest.mark.parametrize("action", CALLS)
@pytest.mark.parametrize("language", ["curl", "python"])
def test_samples_run_as_printed(served: tuple[SimulatedBackend, Server], action: str, language: str) -> None:
    backend, server = served
    backend.now = time.time()
    call = contract.bind(action, CALLS[action])
    text = sample(call, server.endpoint, language)
    assert "testsecret" not in text and server.endpoint.partition("//")[2] in text
    if language == "curl":
        if not shutil.which("curl") or not shutil.which("openssl"):
            pytest.skip("curl or openssl is not installed")
        program = ["sh", "-c", text]
    else:
        program = [sys.executable, "-c", text]
    done = subprocess.run(program, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert '"RequestId"' in done.stdout and '"Code"' not in done.stdout
    assert backend.calls[-1][0] == call


def test_every_operation_has_samples_that_parse() -> None:
    for op in contract.operations().values():
        call = contract.bind(op.name, [(p.name, p.example) for p in op.bound() if p.type != "list"])
        for endpoint in ("http://127.0.0.1:8080", "https://[::1]:8443"):
            for language in LANGUAGES:
                text = sample(call, endpoint, language)
                if language == "python":
                    compile(text, "sample", "exec")
                else:
                    assert shlex.split(text, comments=True)


def test_python_samples_use_the_vendors_names() -> None:
    """Each keyword and method is one that the official SDK has."""
    from alibabacloud_polardb20170801 import models
    from alibabacloud_polardb20170801.client import Client

    from icecore.api.samples import _sdk_name

    for op in contract.operations().values():
        if op.extension:
            continue
        assert hasattr(Client, _sdk_name(op.name))
        request = getattr(models, f"{op.name}Request")()
        for parameter in op.bound():
            assert hasattr(request, _sdk_name(parameter.name)), (op.name, parameter.name)


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
    commented: list[Any] = [*given, ("Comment", HOSTILE)]
    assert words("CreateBackup", commented) == [*expected[:5], "--Comment", HOSTILE, *place, *forced]
    dashed: list[Any] = [*given, ("ClientToken", "-v=1")]
    assert words("CreateBackup", dashed) == [*expected[:5], "--ClientToken=-v=1", *place, "--insecure"]
    assert words("DescribeRepository", []) == ["aliyun", "polardb", "DescribeRepository", *place, *forced]


def test_unknown_language() -> None:
    with pytest.raises(Usage, match="cobol"):
        sample(contract.bind("DescribeRegions", []), "http://h", "cobol")
