"""The same call in another language, complete and ready to run: the endpoint is in it, the key is read from
``ALIBABA_CLOUD_ACCESS_KEY_ID`` and ``ALIBABA_CLOUD_ACCESS_KEY_SECRET``, and its first lines say what to install.

Values may be anything that a caller typed, so each language quotes them by its own rule (``literals``). Names are those
of the vendor's own libraries; where each was seen is in ``tests/vectors/sdk_names.json``. An operation that is ours,
which no library models, goes through the library's generic call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from icecore.api.contract import Call
from icecore.api.samples import cpp, csharp, go, java, node, php, python, ruby, shells
from icecore.api.samples.asked import Asked, asked
from icecore.errors import Usage


@dataclass(frozen=True)
class Language:
    id: str  # stable: in URLs and in `icecore call --print`
    label: str
    lexer: str  # its name in Pygments
    extension: str  # of a file that holds a sample
    write: Callable[[Asked], str]


LANGUAGES = (
    Language("curl", "curl", "bash", "sh", shells.curl),
    Language("python", "Python", "python", "py", python.current),
    Language("python-legacy", "Python (legacy)", "python", "py", python.legacy),
    Language("java", "Java", "java", "java", java.sample),
    Language("go", "Go", "go", "go", go.sample),
    Language("typescript", "TypeScript", "typescript", "ts", node.typescript),
    Language("nodejs", "Node.js", "javascript", "js", node.javascript),
    Language("nodejs-legacy", "Node.js (legacy)", "javascript", "js", node.legacy),
    Language("php", "PHP", "php", "php", php.sample),
    Language("csharp", "C#", "csharp", "cs", csharp.sample),
    Language("cpp", "C++", "cpp", "cpp", cpp.sample),
    Language("ruby", "Ruby", "ruby", "rb", ruby.sample),
    Language("aliyun", "aliyun CLI", "bash", "sh", shells.aliyun),
    Language("icecore", "icecore CLI", "bash", "sh", shells.icecore),
)


def language(name: str) -> Language:
    """By its id; ``Usage`` if there is none."""
    for each in LANGUAGES:
        if each.id == name:
            return each
    raise Usage(reason=f"no samples in {name!r}; there are {', '.join(each.id for each in LANGUAGES)}")


def sample(call: Call, endpoint: str, name: str) -> str:
    """A program or command that makes ``call`` at ``endpoint`` (``http://HOST:PORT``) in the language ``name``.

    Parameters that only repeat a default are left out. ``Usage`` for a language that is not one of ``LANGUAGES``.
    """
    return language(name).write(asked(call, endpoint))
