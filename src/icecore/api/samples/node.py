"""TypeScript and JavaScript. ``@alicloud/polardb20170801`` stays at 1.0.0 on npm, which lacks most operations, so all
go through the generic call of the current core; ``@alicloud/pop-core`` is the one before it and signs with V1."""

from __future__ import annotations

from icecore.api.samples.asked import Asked, fill, grouped
from icecore.api.samples.literals import javascript as quoted

_TYPESCRIPT = """\
// npm install @alicloud/openapi-client @alicloud/tea-util typescript @types/node
// npx tsc --module commonjs --target es2020 --types node --skipLibCheck sample.ts && node sample.js
import Client, { Config, OpenApiRequest, Params } from "@alicloud/openapi-client";
import { RuntimeOptions } from "@alicloud/tea-util";

async function main(): Promise<void> {
«call»
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
"""

_JAVASCRIPT = """\
// npm install @alicloud/openapi-client @alicloud/tea-util
const { default: Client, Config, OpenApiRequest, Params } = require("@alicloud/openapi-client");
const { RuntimeOptions } = require("@alicloud/tea-util");

async function main() {
«call»
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
"""

_CALL = """\
  const client = new Client(
    new Config({
      accessKeyId: process.env.ALIBABA_CLOUD_ACCESS_KEY_ID,
      accessKeySecret: process.env.ALIBABA_CLOUD_ACCESS_KEY_SECRET,
      protocol: «protocol»,
      endpoint: «host»,
    }),
  );
  const action = new Params({
    action: «action»,
    version: «version»,
    protocol: «protocol»,
    method: "POST",
    authType: "AK",
    style: "RPC",
    pathname: "/",
    reqBodyType: "formData",
    bodyType: "json",
  });
  const query = «query»;
  const answer = await client.callApi(action, new OpenApiRequest({ query }), new RuntimeOptions({}));
  console.log(JSON.stringify(answer.body, null, 2));"""

_LEGACY = """\
// npm install @alicloud/pop-core
const { RPCClient } = require("@alicloud/pop-core");

async function main() {
  const client = new RPCClient({
    accessKeyId: process.env.ALIBABA_CLOUD_ACCESS_KEY_ID,
    accessKeySecret: process.env.ALIBABA_CLOUD_ACCESS_KEY_SECRET,
    endpoint: «endpoint»,
    apiVersion: «version»,
  });
  const params = «query»;
  const answer = await client.request(«action», params, { method: "POST" });
  console.log(JSON.stringify(answer, null, 2));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
"""


def typescript(asked: Asked) -> str:
    return fill(_TYPESCRIPT, call=_call(asked))


def javascript(asked: Asked) -> str:
    return fill(_JAVASCRIPT, call=_call(asked))


def legacy(asked: Asked) -> str:
    return fill(
        _LEGACY,
        endpoint=quoted(asked.endpoint),
        version=quoted(asked.version),
        action=quoted(asked.action),
        query=_query(asked),
    )


def _call(asked: Asked) -> str:
    return fill(
        _CALL,
        protocol=quoted(asked.protocol),
        host=quoted(asked.host),
        action=quoted(asked.action),
        version=quoted(asked.version),
        query=_query(asked),
    )


def _query(asked: Asked) -> str:
    return grouped("{", (f"{quoted(name)}: {quoted(value)}" for name, value in asked.pairs), "}", "  ", "  ")
