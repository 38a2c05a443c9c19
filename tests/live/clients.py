"""Alibaba Cloud's own clients, unmodified, behind one face: an action and its parameters in wire names.

What each shows its user of an error differs by client and is kept as it is: the journey in ``test_clients.py`` knows
the forms.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import pytest
from alibabacloud_polardb20170801 import models
from alibabacloud_polardb20170801.client import Client as CurrentSdk
from alibabacloud_tea_openapi.exceptions import ClientException
from alibabacloud_tea_openapi.models import Config
from aliyunsdkcore.acs_exception.exceptions import ServerException
from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import RpcRequest

from station import Station

NODE = Path(__file__).parent / "node"

Wire = dict[str, Any]


class Refusal(Exception):
    """An error as a client shows it. ``data``: the body, where the client keeps it; else what it kept of it."""

    def __init__(self, code: str, message: str, data: Wire, name: str = "") -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.data, self.name = code, message, data, name


class OfficialClient(Protocol):
    def call(self, action: str, **params: str) -> Wire:
        """The answer in wire names; ``Refusal``."""


class Current:
    """``alibabacloud_polardb20170801``: V3, or V1 with ``signature_algorithm='v2'``."""

    def __init__(self, station: Station, **config: str) -> None:
        self.sdk = current_sdk(station, **config)

    def call(self, action: str, **params: str) -> Wire:
        snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", action).lower()
        request = getattr(models, f"{action}Request")().from_map(params)
        try:
            body = getattr(self.sdk, snake)(request).body
        except ClientException as error:
            assert error.data is not None
            told = {"RequestId": error.request_id, "statusCode": error.status_code}
            assert told.items() <= error.data.items(), (told, error.data)
            raise Refusal(error.code, error.message, error.data, type(error).__name__) from error
        return dict(body.to_map())


class Legacy:
    """``aliyun-python-sdk-polardb``."""

    def __init__(self, station: Station) -> None:
        self._client = AcsClient(station.access_key_id, station.access_key_secret, "cn-hangzhou")
        self._host = station.endpoint.partition("://")[2]

    def call(self, action: str, **params: str) -> Wire:
        try:
            return dict(json.loads(self._client.do_action_with_exception(self._request(action, params))))
        except ServerException as error:
            told = {"RequestId": error.get_request_id(), "statusCode": error.get_http_status()}
            raise Refusal(error.get_error_code(), error.get_error_msg(), told) from error

    def raw(self, action: str, accept: str) -> bytes:
        """The answer as it came. ``accept``: JSON or XML; empty leaves the SDK's own default."""
        request = self._request(action, {})
        if accept:
            request.set_accept_format(accept)
        with pytest.deprecated_call():
            return bytes(self._client.do_action(request))

    def _request(self, action: str, params: Mapping[str, str]) -> RpcRequest:
        module = import_module(f"aliyunsdkpolardb.request.v20170801.{action}Request")
        request: RpcRequest = getattr(module, f"{action}Request")()
        request.set_endpoint(self._host)
        for name, value in params.items():
            getattr(request, f"set_{name}")(value)
        return request


class Node:
    """One client of ``node/drive.js`` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(self, action: str, **params: str) -> Wire:
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._process.stdin.write(json.dumps({"action": action, "params": params}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read()
        told = json.loads(line)
        if "refusal" in told:
            found = told["refusal"]
            raise Refusal(str(found.get("code")), found["message"], found["data"], found["name"])
        return dict(told["answer"])


def current_sdk(station: Station, **config: str) -> CurrentSdk:
    protocol, _, host = station.endpoint.partition("://")
    key = {"access_key_id": station.access_key_id, "access_key_secret": station.access_key_secret}
    return CurrentSdk(Config(**key, endpoint=host, protocol=protocol, **config))


@contextmanager
def node(station: Station, client: str, **env: str) -> Iterator[Node]:
    """``env``: more of its environment."""
    env = {
        **os.environ,
        **env,
        "ENDPOINT": station.endpoint,
        "ACCESS_KEY_ID": station.access_key_id,
        "ACCESS_KEY_SECRET": station.access_key_secret,
    }
    with subprocess.Popen(
        ["node", str(NODE / "drive.js"), client],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    ) as process:
        try:
            yield Node(process)
        finally:
            process.kill()


# ---------------------------------------------------------------- what the models say


def as_modelled(action: str, answer: Wire) -> Wire:
    """``answer``, after every field was found in the current SDK's response model and with the type declared there."""
    model = getattr(models, f"{action}ResponseBody")().from_map(answer)
    assert model.to_map() == answer, "a field that the model does not have"
    misfits = list(_misfits(model, action))
    assert not misfits, misfits
    return answer


def _misfits(model: Any, place: str) -> Iterator[str]:
    for name, parameter in inspect.signature(type(model).__init__).parameters.items():
        value = getattr(model, name, None)
        if name == "self" or value is None:
            continue
        declared = str(parameter.annotation)
        plain = {"str": str, "int": int, "bool": bool}.get(declared)
        if plain is not None:
            if type(value) is not plain:
                yield f"{place}.{name} is {value!r}, not {declared}"
        elif declared.startswith("List[main_models."):
            for number, one in enumerate(value):
                yield from _misfits(one, f"{place}.{name}.{number}")
        elif declared.startswith("main_models."):
            yield from _misfits(value, f"{place}.{name}")
        elif declared == "List[str]":
            yield from (f"{place}.{name} holds {one!r}" for one in value if type(one) is not str)
        else:
            yield f"{place}.{name} is declared {declared}: unknown to this check"
