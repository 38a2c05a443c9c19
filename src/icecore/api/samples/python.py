"""Python: the current SDK (``alibabacloud_*``) and the one before it (``aliyunsdk*``), which signs with V1."""

from __future__ import annotations

import re

from icecore.api.samples.asked import Asked, Value, block, fill, grouped, written
from icecore.api.samples.literals import python as quoted

_TYPED = """\
# pip install alibabacloud_polardb20170801
import json
import os

from alibabacloud_polardb20170801 import models
from alibabacloud_polardb20170801.client import Client
from alibabacloud_tea_openapi.utils_models import Config

client = Client(
    Config(
        access_key_id=os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"],
        access_key_secret=os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
        endpoint=«host»,
        protocol=«protocol»,
    )
)
request = models.«action»Request«arguments»
answer = client.«method»(request)
print(json.dumps(answer.body.to_map(), indent=2))
"""

# an operation that the vendor's models do not have goes through the runtime below them
_GENERIC = """\
# pip install alibabacloud_tea_openapi
import json
import os

from alibabacloud_tea_openapi.client import Client
from alibabacloud_tea_openapi.utils_models import Config, OpenApiRequest, Params
from darabonba.runtime import RuntimeOptions

client = Client(
    Config(
        access_key_id=os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"],
        access_key_secret=os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
        endpoint=«host»,
        protocol=«protocol»,
    )
)
action = Params(
    action=«action»,
    version=«version»,
    protocol=«protocol»,
    method="POST",
    auth_type="AK",
    style="RPC",
    pathname="/",
    req_body_type="formData",
    body_type="json",
)
query = «query»
answer = client.call_api(action, OpenApiRequest(query=query), RuntimeOptions())
print(json.dumps(answer["body"], indent=2))
"""

_LEGACY_TYPED = """\
# pip install aliyun-python-sdk-polardb
import json
import os

from aliyunsdkcore.client import AcsClient
from aliyunsdkpolardb.request.v20170801.«action»Request import «action»Request

client = AcsClient(
    os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"],
    os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
    "cn-hangzhou",
)
request = «action»Request()
request.set_endpoint(«host»)
request.set_protocol_type(«protocol»)
request.set_accept_format("json")
«setters»
print(json.dumps(json.loads(client.do_action_with_exception(request)), indent=2))
"""

_LEGACY_GENERIC = """\
# pip install aliyun-python-sdk-core
import json
import os

from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import CommonRequest

client = AcsClient(
    os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"],
    os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
    "cn-hangzhou",
)
request = CommonRequest()
request.set_domain(«host»)
request.set_protocol_type(«protocol»)
request.set_version(«version»)
request.set_action_name(«action»)
request.set_method("POST")
request.set_accept_format("json")
«setters»
print(json.dumps(json.loads(client.do_action_with_exception(request)), indent=2))
"""

# for these aliyun-python-sdk-polardb 1.8.58, the last of its line, has no setter
_NO_LEGACY_SETTER = frozenset({"comment", "region_id"})


def current(asked: Asked) -> str:
    place = {"host": quoted(asked.host), "protocol": quoted(asked.protocol)}
    if not asked.typed:
        query = [f"{quoted(name)}: {quoted(value)}" for name, value in asked.pairs]
        names = {"action": quoted(asked.action), "version": quoted(asked.version)}
        return fill(_GENERIC, **place, **names, query=grouped("{", query, "}"))
    arguments = [f"{_snake(p.name)}={_argument(asked, p.name, value)}" for p, value in asked.arguments]
    names = {"action": asked.action, "method": _snake(asked.action)}
    return fill(_TYPED, **place, **names, arguments=grouped("(", arguments, ")"))


def legacy(asked: Asked) -> str:
    return fill(
        _LEGACY_TYPED if asked.typed else _LEGACY_GENERIC,
        host=quoted(asked.host),
        protocol=quoted(asked.protocol),
        version=quoted(asked.version),
        action=asked.action if asked.typed else quoted(asked.action),
        setters=block(_setters(asked)),
    )


def _argument(asked: Asked, name: str, value: Value) -> str:
    if not isinstance(value, list):
        return written(value, quoted, ("False", "True"))
    element = f"models.{asked.action}Request{name}"
    elements = [f"{element}({', '.join(f'{_snake(n)}={quoted(v)}' for n, v in one.items())})" for one in value]
    return grouped("[", elements, "]", "    ")


def _setters(asked: Asked) -> list[str]:
    if not asked.typed:
        return [f"request.add_query_param({quoted(name)}, {quoted(value)})" for name, value in asked.pairs]
    setters = []
    for parameter, value in asked.arguments:
        if isinstance(value, list):
            elements = [f"{{{', '.join(f'{quoted(n)}: {quoted(v)}' for n, v in one.items())}}}" for one in value]
            setters.append(f"request.set_{parameter.name}s({grouped('[', elements, ']')})")
        elif parameter.snake in _NO_LEGACY_SETTER:
            setters.append(f"request.add_query_param({quoted(parameter.name)}, {written(value, quoted)})")
        else:
            setters.append(f"request.set_{parameter.name}({written(value, quoted, ('False', 'True'))})")
    return setters


def _snake(wire_name: str) -> str:
    """The vendor's generator splits a name only where a small letter is followed by a capital."""
    return re.sub(r"(?<=[a-z])(?=[A-Z0-9])", "_", wire_name).lower()
