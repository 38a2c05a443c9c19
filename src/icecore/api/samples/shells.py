"""Samples that are commands: curl with openssl, the aliyun CLI, icecore itself."""

from __future__ import annotations

from icecore.api import signature
from icecore.api.samples.asked import Asked, fill
from icecore.api.samples.literals import shell

# parameters that the CLI's own metadata of 2026-04 does not have: it refuses them unless forced
_UNKNOWN_TO_CLI = frozenset({"comment"})

_CURL = """\
# needs: sh, openssl, curl
endpoint=«endpoint»
host=«host»
query=«query»
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
nonce=$(openssl rand -hex 16)
signed='host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version'
empty='«empty_hash»'

# the request as it is signed: method, path, query, headers, their names, the hash of the (empty) body
hash=$(printf '%s\\n' POST / "$query" "host:$host" "x-acs-action:«action»" "x-acs-content-sha256:$empty" \\
    "x-acs-date:$date" "x-acs-signature-nonce:$nonce" "x-acs-version:«version»" '' "$signed" |
    { cat; printf %s "$empty"; } | openssl dgst -sha256 -r | cut -d' ' -f1)
signature=$(printf 'ACS3-HMAC-SHA256\\n%s' "$hash" |
    openssl dgst -sha256 -r -hmac "$ALIBABA_CLOUD_ACCESS_KEY_SECRET" | cut -d' ' -f1)
credential="Credential=$ALIBABA_CLOUD_ACCESS_KEY_ID,SignedHeaders=$signed,Signature=$signature"

curl -sS -X POST "$endpoint/?$query" -H "host: $host" -H "x-acs-action: «action»" -H "x-acs-version: «version»" \\
    -H "x-acs-date: $date" -H "x-acs-signature-nonce: $nonce" -H "x-acs-content-sha256: $empty" \\
    -H "Authorization: ACS3-HMAC-SHA256 $credential"
"""


def curl(asked: Asked) -> str:
    return fill(
        _CURL,
        endpoint=shell(asked.endpoint),
        host=shell(asked.host),
        query=shell(signature.canonical_query(asked.pairs)),
        empty_hash=signature.body_hash(b""),
        action=asked.action,
        version=asked.version,
    )


def aliyun(asked: Asked) -> str:
    words = ["aliyun", "polardb", asked.action, *_options(asked)]
    words += ["--endpoint", asked.host, "--region", "cn-hangzhou"]
    # this is how the CLI is told to speak plain http
    if asked.protocol == "http":
        words.append("--insecure")
    if not asked.typed or _UNKNOWN_TO_CLI & asked.given.keys():
        words += ["--force", "--version", asked.version]
    return f"# needs: the aliyun CLI\n{_command(words)}"


def icecore(asked: Asked) -> str:
    """It finds its server through its home, so no endpoint is named."""
    command = _command(["icecore", "call", asked.action, *_options(asked)])
    return f"# needs: icecore, on the machine that serves (ICECORE_HOME, if its home is not ~/.icecore)\n{command}"


def _options(asked: Asked) -> list[str]:
    words = []
    for name, value in asked.pairs:
        # a value that looks like an option must be joined to its name
        words += [f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value]
    return words


def _command(words: list[str]) -> str:
    return " ".join(map(shell, words)) + "\n"
