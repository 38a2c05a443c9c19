"""The same call in another language, complete and ready to run: the endpoint is in it, the key is read from
``ALIBABA_CLOUD_ACCESS_KEY_ID`` and ``ALIBABA_CLOUD_ACCESS_KEY_SECRET``.

Values may be anything that a caller typed, so each language quotes them by its own rule.
"""

from __future__ import annotations

import re
import shlex
from typing import Any
from urllib.parse import urlsplit

from icecore.api import contract, signature
from icecore.api.contract import Call
from icecore.errors import Usage

LANGUAGES = ("curl", "python", "aliyun")
# parameters that the CLI's own metadata of 2026-04 does not have: it refuses them unless forced
_UNKNOWN_TO_CLI = frozenset({"comment"})

_CURL = """\
# needs: sh, openssl, curl
endpoint={endpoint}
host={host}
query={query}
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
nonce=$(openssl rand -hex 16)
signed='host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version'
empty='{empty_hash}'

# the request as it is signed: method, path, query, headers, their names, the hash of the (empty) body
hash=$(printf '%s\\n' POST / "$query" "host:$host" "x-acs-action:{action}" "x-acs-content-sha256:$empty" \\
    "x-acs-date:$date" "x-acs-signature-nonce:$nonce" "x-acs-version:{version}" '' "$signed" |
    {{ cat; printf %s "$empty"; }} | openssl dgst -sha256 -r | cut -d' ' -f1)
signature=$(printf 'ACS3-HMAC-SHA256\\n%s' "$hash" |
    openssl dgst -sha256 -r -hmac "$ALIBABA_CLOUD_ACCESS_KEY_SECRET" | cut -d' ' -f1)
credential="Credential=$ALIBABA_CLOUD_ACCESS_KEY_ID,SignedHeaders=$signed,Signature=$signature"

curl -sS -X POST "$endpoint/?$query" -H "host: $host" -H "x-acs-action: {action}" -H "x-acs-version: {version}" \\
    -H "x-acs-date: $date" -H "x-acs-signature-nonce: $nonce" -H "x-acs-content-sha256: $empty" \\
    -H "Authorization: ACS3-HMAC-SHA256 $credential"
"""

_PYTHON_SDK = """\
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
        endpoint={host!r},
        protocol={protocol!r},
    )
)
request = models.{action}Request({arguments})
answer = client.{method}(request)
print(json.dumps(answer.body.to_map(), indent=2))
"""

# an operation that the vendor's models do not have goes through the runtime below them
_PYTHON_GENERIC = """\
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
        endpoint={host!r},
        protocol={protocol!r},
    )
)
action = Params(
    action={action!r},
    version={version!r},
    protocol={protocol!r},
    method="POST",
    auth_type="AK",
    style="RPC",
    pathname="/",
    req_body_type="formData",
    body_type="json",
)
answer = client.call_api(action, OpenApiRequest(query={query!r}), RuntimeOptions())
print(json.dumps(answer["body"], indent=2))
"""


def sample(call: Call, endpoint: str, language: str) -> str:
    """A program or command that makes ``call`` at ``endpoint`` (``http://HOST:PORT``); ``Usage`` for a language that
    is not one of ``LANGUAGES``. Parameters that only repeat a default are left out."""
    defaults = {p.snake: contract.bind_one(p, p.default) for p in call.operation.bound() if p.default}
    given = {name: value for name, value in call.params.items() if value is not None and defaults.get(name) != value}
    match language:
        case "curl":
            return _curl(call.action, contract.to_pairs(call.action, given), endpoint)
        case "python":
            return _python(call, given, endpoint)
        case "aliyun":
            return _aliyun(call, contract.to_pairs(call.action, given), endpoint)
        case _:
            raise Usage(reason=f"no samples in {language!r}; there are {', '.join(LANGUAGES)}")


def _curl(action: str, pairs: signature.Pairs, endpoint: str) -> str:
    return _CURL.format(
        endpoint=shlex.quote(endpoint.rstrip("/")),
        host=shlex.quote(urlsplit(endpoint).netloc),
        query=shlex.quote(signature.canonical_query(pairs)),
        empty_hash=signature.body_hash(b""),
        action=action,
        version=contract.document()["version"],
    )


def _python(call: Call, given: dict[str, Any], endpoint: str) -> str:
    place = {"host": urlsplit(endpoint).netloc, "protocol": urlsplit(endpoint).scheme, "action": call.action}
    pairs = contract.to_pairs(call.action, given)
    if call.operation.extension:
        return _PYTHON_GENERIC.format(**place, version=contract.document()["version"], query=dict(pairs))
    arguments = []
    for name, value in given.items():
        parameter = call.operation.parameter(name)
        if parameter.type == "list":
            element = f"models.{call.action}Request{parameter.name}"
            items = ", ".join(f"{element}({_keywords(parameter.fields, one)})" for one in value)
            arguments.append(f"{_sdk_name(parameter.name)}=[{items}]")
        else:
            arguments.append(_keywords((parameter,), {name: value}))
    return _PYTHON_SDK.format(**place, arguments=", ".join(arguments), method=_sdk_name(call.action))


def _keywords(parameters: tuple[contract.Parameter, ...], values: dict[str, Any]) -> str:
    """``name=value`` in the vendor's model: numbers as numbers, all else as the text that goes over the wire."""
    arguments = []
    for parameter in parameters:
        value = values.get(parameter.snake)
        if value is not None:
            written = value if parameter.type in ("int", "bool") else contract.text_of(parameter, value)
            arguments.append(f"{_sdk_name(parameter.name)}={written!r}")
    return ", ".join(arguments)


def _sdk_name(wire_name: str) -> str:
    """The vendor's generator splits a name only where a small letter is followed by a capital."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", wire_name).lower()


def _aliyun(call: Call, pairs: signature.Pairs, endpoint: str) -> str:
    url = urlsplit(endpoint)
    words = ["aliyun", "polardb", call.action]
    for name, value in pairs:
        # a value that looks like a flag must be joined to its name
        words += [f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value]
    words += ["--endpoint", url.netloc, "--region", "cn-hangzhou"]
    # this is how the CLI is told to speak plain http
    if url.scheme == "http":
        words.append("--insecure")
    if call.operation.extension or any(call.params.get(name) for name in _UNKNOWN_TO_CLI):
        words += ["--force", "--version", contract.document()["version"]]
    return f"# needs: the aliyun CLI\n{shlex.join(words)}\n"
