"""Java: com.aliyun:polardb20170801, and com.aliyun:tea-openapi for what it does not model."""

from __future__ import annotations

from icecore.api.samples.asked import Asked, Value, block, fill, written
from icecore.api.samples.literals import java as quoted

_CONFIG = """\
new Config()
            .setAccessKeyId(System.getenv("ALIBABA_CLOUD_ACCESS_KEY_ID"))
            .setAccessKeySecret(System.getenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET"))
            .setProtocol(«protocol»)
            .setEndpoint(«host»)"""

_TYPED = """\
// Maven: com.aliyun:polardb20170801:7.12.0
import com.aliyun.polardb20170801.Client;
import com.aliyun.polardb20170801.models.«action»Request;
import com.aliyun.polardb20170801.models.«action»Response;
import com.aliyun.teaopenapi.models.Config;
import com.aliyun.teautil.Common;
«imports»

public class «action» {
    public static void main(String[] args) throws Exception {
        Client client = new Client(«config»);
        «action»Request request = new «action»Request()«setters»;
        «action»Response answer = client.«method»(request);
        System.out.println(Common.toJSONString(answer.getBody().toMap()));
    }
}
"""

_GENERIC = """\
// Maven: com.aliyun:tea-openapi:0.3.12
import com.aliyun.teaopenapi.Client;
import com.aliyun.teaopenapi.models.Config;
import com.aliyun.teaopenapi.models.OpenApiRequest;
import com.aliyun.teaopenapi.models.Params;
import com.aliyun.teautil.Common;
import com.aliyun.teautil.models.RuntimeOptions;
import java.util.HashMap;
import java.util.Map;

public class «action» {
    public static void main(String[] args) throws Exception {
        Client client = new Client(«config»);
        Params action = new Params()
            .setAction(«name»)
            .setVersion(«version»)
            .setProtocol(«protocol»)
            .setMethod("POST")
            .setAuthType("AK")
            .setStyle("RPC")
            .setPathname("/")
            .setReqBodyType("formData")
            .setBodyType("json");
        Map<String, String> query = new HashMap<>();
«puts»
        OpenApiRequest request = new OpenApiRequest().setQuery(query);
        Map<String, ?> answer = client.callApi(action, request, new RuntimeOptions());
        System.out.println(Common.toJSONString(answer.get("body")));
    }
}
"""


def sample(asked: Asked) -> str:
    protocol = quoted(asked.protocol)
    config = fill(_CONFIG, protocol=protocol, host=quoted(asked.host))
    if not asked.typed:
        return fill(
            _GENERIC,
            config=config,
            action=asked.action,
            name=quoted(asked.action),
            version=quoted(asked.version),
            protocol=protocol,
            puts=block((f"query.put({quoted(name)}, {quoted(value)});" for name, value in asked.pairs), " " * 8),
        )
    setters = [f".set{p.name}({_argument(asked, p.name, value)})" for p, value in asked.arguments]
    has_list = any(isinstance(value, list) for _, value in asked.arguments)
    return fill(
        _TYPED,
        config=config,
        action=asked.action,
        imports="import java.util.Arrays;" if has_list else "",
        method=asked.action[0].lower() + asked.action[1:],
        setters="".join(f"\n            {setter}" for setter in setters),
    )


def _argument(asked: Asked, name: str, value: Value) -> str:
    if not isinstance(value, list):
        return written(value, quoted)
    element = f"new {asked.action}Request.{asked.action}Request{name}()"
    elements = [element + "".join(f".set{n}({quoted(v)})" for n, v in one.items()) for one in value]
    return "Arrays.asList(" + ",".join(f"\n                {one}" for one in elements) + ")"
