"""Ruby: aliyunsdkcore, the vendor's only gem. It knows no operations, so all go through its generic call; V1."""

from __future__ import annotations

from icecore.api.samples.asked import Asked, fill, grouped
from icecore.api.samples.literals import ruby as quoted

_SAMPLE = """\
# gem install aliyunsdkcore
require 'json'
require 'aliyunsdkcore'

client = RPCClient.new(
  endpoint: «endpoint»,
  api_version: «version»,
  access_key_id: ENV.fetch('ALIBABA_CLOUD_ACCESS_KEY_ID'),
  access_key_secret: ENV.fetch('ALIBABA_CLOUD_ACCESS_KEY_SECRET')
)
params = «params»
answer = client.request(action: «action», params: params, opts: { method: 'POST' })
puts JSON.pretty_generate(answer)
"""


def sample(asked: Asked) -> str:
    return fill(
        _SAMPLE,
        endpoint=quoted(asked.endpoint),
        version=quoted(asked.version),
        action=quoted(asked.action),
        params=grouped("{", (f"{quoted(name)} => {quoted(value)}" for name, value in asked.pairs), "}", step="  "),
    )
