"""C#: AlibabaCloud.SDK.Polardb20170801, and AlibabaCloud.OpenApiClient, in the line that it needs, for the rest."""

from __future__ import annotations

from icecore.api.samples.asked import Asked, Value, fill, grouped, written
from icecore.api.samples.literals import csharp as quoted

_CONFIG = """\
new Config
        {
            AccessKeyId = Environment.GetEnvironmentVariable("ALIBABA_CLOUD_ACCESS_KEY_ID"),
            AccessKeySecret = Environment.GetEnvironmentVariable("ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
            Protocol = «protocol»,
            Endpoint = «host»,
        }"""

_TYPED = """\
// dotnet new console && dotnet add package AlibabaCloud.SDK.Polardb20170801 --version 7.12.0
// Program.cs:
using System;
using System.Collections.Generic;
using AlibabaCloud.OpenApiClient.Models;
using AlibabaCloud.SDK.Polardb20170801;
using AlibabaCloud.SDK.Polardb20170801.Models;
using AlibabaCloud.TeaUtil;
using Tea;

public static class «action»
{
    public static void Main()
    {
        var client = new Client(«config»);
        var request = new «action»Request«properties»;
        var answer = client.«action»(request);
        Console.WriteLine(Common.ToJSONString(answer.Body.ToMap()));
    }
}
"""

_GENERIC = """\
// dotnet new console && dotnet add package AlibabaCloud.OpenApiClient --version 0.1.16
// Program.cs:
using System;
using System.Collections.Generic;
using AlibabaCloud.OpenApiClient;
using AlibabaCloud.OpenApiClient.Models;
using AlibabaCloud.TeaUtil;
using AlibabaCloud.TeaUtil.Models;

public static class «action»
{
    public static void Main()
    {
        var client = new Client(«config»);
        var action = new Params
        {
            Action = «name»,
            Version = «version»,
            Protocol = «protocol»,
            Method = "POST",
            AuthType = "AK",
            Style = "RPC",
            Pathname = "/",
            ReqBodyType = "formData",
            BodyType = "json",
        };
        var query = new Dictionary<string, string>«query»;
        var answer = client.CallApi(action, new OpenApiRequest { Query = query }, new RuntimeOptions());
        Console.WriteLine(Common.ToJSONString(answer["body"]));
    }
}
"""


def sample(asked: Asked) -> str:
    protocol = quoted(asked.protocol)
    config = fill(_CONFIG, protocol=protocol, host=quoted(asked.host))
    if asked.typed:
        properties = [f"{p.name} = {_argument(asked, p.name, value)}" for p, value in asked.arguments]
        return fill(_TYPED, config=config, action=asked.action, properties=_initializer(properties))
    entries = [f"{{ {quoted(name)}, {quoted(value)} }}" for name, value in asked.pairs]
    return fill(
        _GENERIC,
        config=config,
        action=asked.action,
        name=quoted(asked.action),
        version=quoted(asked.version),
        protocol=protocol,
        query=_initializer(entries),
    )


def _argument(asked: Asked, name: str, value: Value) -> str:
    if not isinstance(value, list):
        return written(value, quoted)
    element = f"{asked.action}Request.{asked.action}Request{name}"
    elements = [f"new {element} {{ {', '.join(f'{n} = {quoted(v)}' for n, v in one.items())} }}" for one in value]
    return f"new List<{element}>" + grouped("\n            {", elements, "}", " " * 12)


def _initializer(items: list[str]) -> str:
    """After a type; without items the constructor's brackets take its place."""
    return grouped("\n        {", items, "}", " " * 8) if items else "()"
