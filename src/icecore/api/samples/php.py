"""PHP: alibabacloud/polardb-20170801, and alibabacloud/openapi-core for what it does not model."""

from __future__ import annotations

from icecore.api.samples.asked import Asked, Value, block, fill, grouped, written
from icecore.api.samples.literals import php as quoted

_CONFIG = """\
new Config([
    'accessKeyId' => getenv('ALIBABA_CLOUD_ACCESS_KEY_ID'),
    'accessKeySecret' => getenv('ALIBABA_CLOUD_ACCESS_KEY_SECRET'),
    'protocol' => «protocol»,
    'endpoint' => «host»,
])"""

_TYPED = """\
<?php
// composer require alibabacloud/polardb-20170801:7.13.0
require __DIR__ . '/vendor/autoload.php';

use AlibabaCloud\\SDK\\Polardb\\V20170801\\Models\\«action»Request;
«imports»
use AlibabaCloud\\SDK\\Polardb\\V20170801\\Polardb;
use Darabonba\\OpenApi\\Models\\Config;

$client = new Polardb(«config»);
$request = new «action»Request(«arguments»);
$answer = $client->«method»($request);
echo json_encode($answer->body->toMap(), JSON_PRETTY_PRINT | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE), "\\n";
"""

_GENERIC = """\
<?php
// composer require alibabacloud/openapi-core:^1.0.10
require __DIR__ . '/vendor/autoload.php';

use AlibabaCloud\\Dara\\Models\\RuntimeOptions;
use Darabonba\\OpenApi\\Models\\Config;
use Darabonba\\OpenApi\\Models\\OpenApiRequest;
use Darabonba\\OpenApi\\Models\\Params;
use Darabonba\\OpenApi\\OpenApiClient;

$client = new OpenApiClient(«config»);
$action = new Params([
    'action' => «action»,
    'version' => «version»,
    'protocol' => «protocol»,
    'method' => 'POST',
    'authType' => 'AK',
    'style' => 'RPC',
    'pathname' => '/',
    'reqBodyType' => 'formData',
    'bodyType' => 'json',
]);
$request = new OpenApiRequest(['query' => «query»]);
$answer = $client->callApi($action, $request, new RuntimeOptions([]));
echo json_encode($answer['body'], JSON_PRETTY_PRINT | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE), "\\n";
"""


def sample(asked: Asked) -> str:
    protocol = quoted(asked.protocol)
    config = fill(_CONFIG, protocol=protocol, host=quoted(asked.host))
    if not asked.typed:
        return fill(
            _GENERIC,
            config=config,
            action=quoted(asked.action),
            version=quoted(asked.version),
            protocol=protocol,
            query=grouped("[", (f"{quoted(name)} => {quoted(value)}" for name, value in asked.pairs), "]"),
        )
    arguments = [f"{quoted(_property(p.name))} => {_argument(p.name, value)}" for p, value in asked.arguments]
    lists = [p.name for p, value in asked.arguments if isinstance(value, list)]
    models = f"AlibabaCloud\\SDK\\Polardb\\V20170801\\Models\\{asked.action}Request"
    return fill(
        _TYPED,
        config=config,
        action=asked.action,
        imports=block(f"use {models}\\{_property(name)};" for name in lists),
        method=_property(asked.action),
        arguments=grouped("[", arguments, "]"),
    )


def _argument(name: str, value: Value) -> str:
    if not isinstance(value, list):
        return written(value, quoted)
    elements = (
        f"new {_property(name)}([{', '.join(f'{quoted(_property(n))} => {quoted(v)}' for n, v in one.items())}])"
        for one in value
    )
    return grouped("[", elements, "]", "    ")


def _property(wire_name: str) -> str:
    """The vendor's generator makes the first letter small unless a capital follows: clientToken, DBClusterId."""
    return wire_name if wire_name[1:2].isupper() else wire_name[0].lower() + wire_name[1:]
