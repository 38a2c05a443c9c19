"""C++: polardb-20170801 of aliyun/alibabacloud-cpp-sdk, and alibabacloud_open_api_v2 for what it does not model."""

from __future__ import annotations

from icecore.api.samples.asked import Asked, Value, block, fill, grouped, written
from icecore.api.samples.literals import cpp as quoted

_CONFIG = """\
AlibabaCloud::OpenApi::Utils::Models::Config config;
    config.setAccessKeyId(std::getenv("ALIBABA_CLOUD_ACCESS_KEY_ID"))
        .setAccessKeySecret(std::getenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET"))
        .setProtocol(«protocol»)
        .setEndpoint(«host»);"""

_TYPED = """\
// git clone https://github.com/aliyun/alibabacloud-cpp-sdk and build polardb-20170801 in it with CMake
#include <cstdlib>
#include <iostream>
#include <vector>

#include <alibabacloud/Polardb20170801.hpp>

namespace polardb = AlibabaCloud::Polardb20170801;

int main() {
    «config»
    polardb::Client client(config);
    polardb::Models::«action»Request request;
«setters»
    auto answer = client.«method»(request);
    std::cout << answer.getBody().toMap().dump(2) << std::endl;
}
"""

_GENERIC = """\
// git clone https://github.com/aliyun/darabonba-openapi and build cpp in it with CMake
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>

#include <alibabacloud/Openapi.hpp>

int main() {
    «config»
    AlibabaCloud::OpenApi::Client client(config);
    AlibabaCloud::OpenApi::Utils::Models::Params action;
    action.setAction(«action»)
        .setVersion(«version»)
        .setProtocol(«protocol»)
        .setMethod("POST")
        .setAuthType("AK")
        .setStyle("RPC")
        .setPathname("/")
        .setReqBodyType("formData")
        .setBodyType("json");
    std::map<std::string, std::string> query«query»;
    AlibabaCloud::OpenApi::Utils::Models::OpenApiRequest request;
    request.setQuery(query);
    auto answer = client.callApi(action, request, Darabonba::RuntimeOptions());
    std::cout << answer["body"].dump(2) << std::endl;
}
"""


def sample(asked: Asked) -> str:
    protocol = quoted(asked.protocol)
    config = fill(_CONFIG, protocol=protocol, host=quoted(asked.host))
    if asked.typed:
        setters = (f"request.set{p.name}({_argument(asked, p.name, value)});" for p, value in asked.arguments)
        method = asked.action[0].lower() + asked.action[1:]
        return fill(_TYPED, config=config, action=asked.action, method=method, setters=block(setters, "    "))
    entries = (f"{{{quoted(name)}, {quoted(value)}}}" for name, value in asked.pairs)
    return fill(
        _GENERIC,
        config=config,
        action=quoted(asked.action),
        version=quoted(asked.version),
        protocol=protocol,
        query=grouped("{", entries, "}", "    "),
    )


def _argument(asked: Asked, name: str, value: Value) -> str:
    if not isinstance(value, list):
        return written(value, quoted)
    element = f"polardb::Models::{asked.action}Request::{name}"
    elements = (f"{element}()" + "".join(f".set{n}({quoted(v)})" for n, v in one.items()) for one in value)
    return f"std::vector<{element}>" + grouped("{", elements, "}", "    ")
