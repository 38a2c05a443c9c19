"""Each sample that is shown is one that runs.

*Executed*, as printed, for every operation against the real HTTP server, and once per language against a real
installation: curl, Python (both SDKs), TypeScript, Node.js (both clients), ``icecore call``. *Compiled* or run against
libraries that have the recorded names of the vendor's and no other (``sdk_stubs``): Java, Go, C#, C++, PHP, Ruby.
The aliyun CLI is in no registry that a test can reach; its words are checked in tests/unit.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sdk_stubs

from icecore import config
from icecore.api import contract
from icecore.api.contract import Call
from icecore.api.samples import LANGUAGES, language, literals, sample
from icecore.api.samples.asked import asked, fill
from icecore.api.server import Server
from station import Station, until
from world import PostgresWorld

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from simulated_backend import SimulatedBackend, serving

NODE_MODULES = Path(__file__).parent / "node" / "node_modules"
HOSTILE = 'it\'s "$HOME" `id` $(touch /tmp/x) ${x} #{x} #$x \\ %s {0} ??/ <?php ?> </script> * ; & | é 備 😀 \u202e #!'
ENVIRONMENT = {
    **os.environ,
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "testid",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "testsecret",
    "NO_PROXY": "127.0.0.1",
    "NODE_PATH": str(NODE_MODULES),
}
ENDPOINT = "http://127.0.0.1:8080"


def run(*command: str | Path, env: dict[str, str] = ENVIRONMENT, cwd: Path | None = None) -> str:
    """stdout; its stderr is in the failure."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-4000:]
    return done.stdout.decode()


def answers(text: str) -> list[dict[str, Any]]:
    """Every JSON document in a program's output."""
    found, at, decoder = [], 0, json.JSONDecoder()
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        document, at = decoder.raw_decode(text, at)
        found.append(document)
    return found


# ---------------------------------------------------------------- calls


def example(op: contract.Operation, text: str) -> Call:
    """Every parameter of the operation; ``text`` wherever the contract lets one write what one likes."""
    pairs = []
    for p in op.bound():
        free = p.text and not p.pattern and not p.values
        if p.type != "list":
            pairs.append((p.name, text[: p.max_length] if free else p.example))
        for n in (1, 2) if p.type == "list" else ():
            pairs += [(f"{p.name}.{n}.{each.name}", text[: each.max_length]) for each in p.fields if each.text or n > 1]
    return contract.bind(op.name, [(name, value) for name, value in pairs if value])


def calls() -> list[Call]:
    """Each operation with its examples, then with what a malicious caller might type, then what is required alone."""
    every = list(contract.operations().values())
    bare = [contract.bind(op.name, [(p.name, p.example) for p in op.bound() if p.required]) for op in every]
    token = ("ClientToken", "a'b\"c\\d %41+$(id)~*!")
    odd = contract.bind("CreateBackup", [("DBClusterId", "pc-1"), token])
    return [*(example(op, HOSTILE) for op in every), *(example(op, "plain") for op in every), *bare, odd]


def written(name: str, wanted: list[Call], endpoint: str, place: Path) -> list[Path]:
    """A file for each call; one with the operation's name is alone in its folder, as Java and Go want it."""
    paths = []
    for n, call in enumerate(wanted):
        path = place / f"{call.action}{n}" / f"{call.action}.{language(name).extension}"
        path.parent.mkdir(parents=True)
        path.write_text(sample(call, endpoint, name), encoding="utf-8")
        paths.append(path)
    return paths


# ---------------------------------------------------------------- executed


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[SimulatedBackend, Server]]:
    backend = SimulatedBackend(time.time())
    with serving(backend) as server:
        yield backend, server


def by_python(paths: list[Path], _: Path) -> str:
    program = "import runpy, sys\nfor path in sys.argv[1:]: runpy.run_path(path, run_name='__main__')"
    return run(sys.executable, "-W", "error::SyntaxWarning", "-c", program, *paths)


def by_node(paths: list[Path], _: Path) -> str:
    program = "process.argv.slice(1).forEach((path) => require(path))"
    return run("node", "--unhandled-rejections=strict", "-e", program, *paths)


def by_typescript(paths: list[Path], place: Path) -> str:
    """Checked against the packages' own declarations, with everything strict, then run as JavaScript."""
    (place / "node_modules").symlink_to(NODE_MODULES)
    options = {"strict": True, "module": "commonjs", "target": "es2020", "types": ["node"], "skipLibCheck": True}
    settings = {"compilerOptions": options, "files": [str(path) for path in paths]}
    (place / "tsconfig.json").write_text(json.dumps(settings))
    run("node", NODE_MODULES / "typescript" / "bin" / "tsc", "-p", place)
    return by_node([path.with_suffix(".js") for path in paths], place)


def by_sh(paths: list[Path], _: Path) -> str:
    return "".join(run("sh", path) for path in paths)


EXECUTED: dict[str, Callable[[list[Path], Path], str]] = {
    "curl": by_sh,
    "python": by_python,
    "python-legacy": by_python,
    "typescript": by_typescript,
    "nodejs": by_node,
    "nodejs-legacy": by_node,
}


@pytest.mark.parametrize("name", EXECUTED)
def test_samples_run_as_printed(served: tuple[SimulatedBackend, Server], tmp_path: Path, name: str) -> None:
    backend, server = served
    wanted = calls()
    if name == "curl":  # ten processes each: one call of each operation tells it all
        wanted = [*wanted[: len(contract.operations())], wanted[-1]]
    backend.now, backend.calls = time.time(), []
    told = answers(EXECUTED[name](written(name, wanted, server.endpoint, tmp_path), tmp_path))
    assert len(told) == len(wanted) and all("RequestId" in each and "Code" not in each for each in told)
    assert sorted(map(repr, (call for call, _ in backend.calls))) == sorted(repr(sent(name, call)) for call in wanted)


def sent(name: str, call: Call) -> Call:
    """What the server sees of a call. The legacy Python SDK sends its region with every request."""
    has_region = name == "python-legacy" and any(p.name == "RegionId" for p in call.operation.bound())
    region = {"region_id": call.params.get("region_id") or "cn-hangzhou"} if has_region else {}
    return Call(call.action, {**call.params, **region})


def test_icecore_samples_run_as_printed(served: tuple[SimulatedBackend, Server], tmp_path: Path) -> None:
    backend, server = served
    home = config.create(tmp_path / "home")
    config.save_endpoint(home, config.Endpoint(server.endpoint.partition("//")[2], "http", "", os.getpid()))
    env = {**ENVIRONMENT, "ICECORE_HOME": str(home.home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    wanted = calls()
    paths = written("icecore", wanted, server.endpoint, tmp_path / "samples")
    backend.now, backend.calls = time.time(), []
    # by the shell, as printed
    odd = [n for n, call in enumerate(wanted) if call.action in ("CreateBackup", "DescribeDBClusters")]
    for n in odd:
        assert "RequestId" in run("sh", paths[n], env=env)
    # the others by the same words in one process: a start costs a third of a second
    rest = [path for n, path in enumerate(paths) if n not in odd]
    program = (
        "import shlex, sys\nfrom icecore.cli import main\n"
        "for path in sys.argv[1:]:\n"
        "    words = shlex.split(open(path, encoding='utf-8').read(), comments=True)\n"
        "    assert words[0] == 'icecore' and main(words[1:]) == 0, path\n"
    )
    told = answers(run(sys.executable, "-c", program, *rest, env=env))
    assert len(told) == len(rest) and all("RequestId" in each for each in told)
    assert sorted(map(repr, (call for call, _ in backend.calls))) == sorted(map(repr, wanted))


def test_each_executed_language_makes_a_real_backup(ground: Path, source: PostgresWorld, tmp_path: Path) -> None:
    comment = HOSTILE.replace("\u202e", "")
    with pytest.MonkeyPatch.context() as patch, Station(ground) as station:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setitem(ENVIRONMENT, "ALIBABA_CLOUD_ACCESS_KEY_ID", station.access_key_id)
        patch.setitem(ENVIRONMENT, "ALIBABA_CLOUD_ACCESS_KEY_SECRET", station.access_key_secret)
        patch.setitem(ENVIRONMENT, "ICECORE_HOME", str(station.home))
        patch.setitem(ENVIRONMENT, "PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

        def backup(name: str) -> tuple[str, str]:
            registered = station.call(
                "RegisterDBCluster",
                db_cluster_description=name,
                engine="postgresql",
                connection_string=source.dsn(),
            )
            cluster_id = registered["db_cluster_id"]
            one = {"db_cluster_id": cluster_id}
            until(lambda: station.call("DescribeDBClusterAttribute", **one)["db_cluster_status"] == "Running")
            call = contract.bind("CreateBackup", [("DBClusterId", cluster_id), ("Comment", comment)])
            place = tmp_path / name
            (told,) = answers(EXECUTED.get(name, by_sh)(written(name, [call], station.endpoint, place), place))
            return cluster_id, told["BackupJobId"]

        with ThreadPoolExecutor(2) as pool:
            made = dict(pool.map(backup, [*EXECUTED, "icecore"]))
        assert len(made) == 7
        for cluster_id, job_id in made.items():
            station.wait(job_id)
            (backup,) = station.backups(cluster_id)
            assert (backup["backup_id"], backup["backup_status"]) == (job_id, "Success")


# ---------------------------------------------------------------- compiled against the recorded names


def full() -> list[Call]:
    """Every parameter of every operation: what a file can hold, also where the server would refuse it."""
    made = []
    for op in contract.operations().values():
        bound = example(op, HOSTILE).params
        free = {p.snake for p in op.bound() if p.type == "str"}
        made.append(Call(op.name, {k: f"{HOSTILE}\r\n\t\x1b" if k in free else v for k, v in bound.items()}))
    return made


def test_java_samples_compile(tmp_path: Path) -> None:
    stubs = sdk_stubs.write("java", tmp_path / "stubs")
    paths = written("java", full(), ENDPOINT, tmp_path / "samples")
    run("javac", "-encoding", "US-ASCII", "-proc:none", "-implicit:none", "-Xlint:all", "-Werror", "-d",
        tmp_path / "out", *stubs, *paths)  # fmt: skip


def test_csharp_samples_compile(tmp_path: Path) -> None:
    stubs = sdk_stubs.write("csharp", tmp_path / "stubs")
    paths = written("csharp", full(), ENDPOINT, tmp_path / "samples")
    run("mcs", "-langversion:5", "-target:library", f"-out:{tmp_path}/samples.dll", *stubs, *paths)


def test_go_samples_compile(tmp_path: Path) -> None:
    """``go vet`` reads types and all; ``gofmt`` finds nothing to lay out otherwise."""
    sdk_stubs.write("go", tmp_path)
    paths = written("go", full(), ENDPOINT, tmp_path)
    env = {**ENVIRONMENT, "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GO111MODULE": "on", "GOWORK": "off"}
    run("go", "vet", "./...", env=env, cwd=tmp_path)
    assert run("gofmt", "-l", *paths) == ""


def test_cpp_samples_compile(tmp_path: Path) -> None:
    """All in one unit: the headers cost more than the samples."""
    sdk_stubs.write("cpp", tmp_path / "stubs")
    paths = written("cpp", full(), ENDPOINT, tmp_path / "samples")
    unit = tmp_path / "unit.cpp"
    unit.write_text("\n".join(f'#define main main_{n}\n#include "{path}"\n#undef main' for n, path in enumerate(paths)))
    run(
        "g++",
        "-std=c++11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-return-type",
        "-fsyntax-only",
        "-I",
        tmp_path / "stubs",
        unit,
    )


def test_php_samples_make_the_call(tmp_path: Path) -> None:
    sdk_stubs.write("php", tmp_path)
    wanted = full()
    paths = [path.rename(tmp_path / f"{n}.php") for n, path in enumerate(written("php", wanted, ENDPOINT, tmp_path))]
    each = "foreach (array_slice($argv, 1) as $path) { (function () use ($path) { include $path; })(); }"
    told = answers(run("php", "-d", "error_reporting=-1", "-d", "display_errors=stderr", "-r", each, "--", *paths))
    for call, made in zip(wanted, told, strict=True):
        given = asked(call, ENDPOINT)
        sent = {p.name: value for p, value in given.arguments} if given.typed else dict(given.pairs)
        # no parameters: PHP writes an empty map as a list; a model's properties begin small
        assert made["action"].lower() == call.action.lower()
        assert lowered(dict(made["query"])) == lowered(sent)


def lowered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name.lower(): lowered(one) for name, one in value.items()}
    return [lowered(one) for one in value] if isinstance(value, list) else value


def test_ruby_samples_make_the_call(tmp_path: Path) -> None:
    sdk_stubs.write("ruby", tmp_path / "stubs")
    wanted = full()
    paths = written("ruby", wanted, ENDPOINT, tmp_path / "samples")
    told = answers(run("ruby", "-w", "-I", tmp_path / "stubs", "-e", "ARGV.each { |path| load path }", *paths))
    assert [(each["action"], each["query"]) for each in told] == [
        (call.action, dict(asked(call, ENDPOINT).pairs)) for call in wanted
    ]


# ---------------------------------------------------------------- literals, read by the languages themselves


def texts() -> list[str]:
    """Everything special anywhere, and 300 random ones made of it; none is empty and none holds a NUL."""
    dice = random.Random(20170801)
    parts = [*"'\"\\$#{}@%`!?/<>()[]&|;*~ \n\r\t\x0b\x0c\x1b\x7f\x85aun0189xUé備", "\u2028", "\u202e", "\ufeff", "😀"]
    parts += [
        "??/",
        "\\u0022",
        "\\u{22}",
        "\\x",
        "#{1+1}",
        "#$0",
        "${HOME}",
        "{$x}",
        "<?php",
        "?>",
        "*/",
        "//",
        "__END__",
    ]
    return [HOSTILE, *parts, *("".join(dice.choices(parts, k=dice.randint(2, 12))) for _ in range(300))]


# prints the UTF-8 bytes of each text in hexadecimal digits, a line each
READERS = {
    "javascript": "[«texts»].forEach((text) => console.log(Buffer.from(text, 'utf8').toString('hex')));",
    "php": '<?php foreach ([«texts»] as $text) { echo bin2hex($text), "\\n"; }',
    "ruby": "[«texts»].each { |text| puts text.unpack1('H*') }",
    "java": """\
import java.nio.charset.StandardCharsets;
public class Texts {
    public static void main(String[] args) {
        for (String text : new String[] {«texts»}) {
            for (byte each : text.getBytes(StandardCharsets.UTF_8)) System.out.printf("%02x", each);
            System.out.println();
        }
    }
}""",
    "go": """\
package main
import "fmt"
func main() {
    for _, text := range []string{«texts»} { fmt.Printf("%x\\n", text) }
}""",
    "csharp": """\
using System;
public static class Texts {
    public static void Main() {
        foreach (var text in new string[] {«texts»}) {
            foreach (var each in System.Text.Encoding.UTF8.GetBytes(text)) Console.Write("{0:x2}", each);
            Console.WriteLine();
        }
    }
}""",
    "cpp": """\
#include <cstdio>
#include <string>
int main() {
    for (std::string text : {«texts»}) {
        for (unsigned char each : text) std::printf("%02x", each);
        std::puts("");
    }
}""",
    "shell": "for text in «texts»; do printf %s \"$text\" | od -An -v -tx1 | tr -d ' \\n'; echo; done",
}


@pytest.mark.parametrize("name", READERS)
def test_a_value_survives_its_literal(name: str, tmp_path: Path) -> None:
    given = texts() if name != "shell" else texts()[:120]  # three processes each
    quote = getattr(literals, name)
    quoted = [f"std::string({quote(text)})" if name == "cpp" else quote(text) for text in given]
    source = tmp_path / {"java": "Texts.java", "go": "texts.go", "cpp": "texts.cpp"}.get(name, "texts")
    source.write_text(fill(READERS[name], texts=(" " if name == "shell" else ", ").join(quoted)), encoding="utf-8")
    binary = tmp_path / "binary"
    match name:
        case "javascript":
            told = run("node", source)
        case "java":
            told = run("java", "-Dfile.encoding=US-ASCII", source)
        case "go":
            told = run("go", "run", source, env={**ENVIRONMENT, "GOPROXY": "off", "GO111MODULE": "off"})
        case "csharp":
            run("mcs", "-langversion:5", f"-out:{binary}", source)
            told = run("mono", binary)
        case "cpp":
            run("g++", "-std=c++11", "-O0", "-o", binary, source)
            told = run(binary)
        case "shell":
            told = run("sh", source)
        case _:
            told = run(name, source)
    assert [bytes.fromhex(line).decode() for line in told.splitlines()] == given


def test_every_language_is_proven_somewhere() -> None:
    """Nobody adds one without saying here how it is checked."""
    compiled = set(sdk_stubs.NAMES)
    assert {each.id for each in LANGUAGES} == EXECUTED.keys() | compiled | {"icecore", "aliyun"}
    assert not EXECUTED.keys() & compiled


# ---------------------------------------------------------------- the recorded names


@pytest.mark.parametrize("name", sdk_stubs.NAMES)
def test_samples_ask_for_the_versions_whose_names_are_recorded(name: str) -> None:
    recorded = sdk_stubs.NAMES[name]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", source) for source in recorded["sources"])
    samples = [sample(Call(action), ENDPOINT, name) for action in ("DescribeRegions", "DescribeJobs")]
    for package, version in recorded.get("packages", {}).items():
        opening = next(lines for lines in ("\n".join(each.splitlines()[:2]) for each in samples) if package in lines)
        # Ruby's gem has had no new version in five years
        assert version in opening or name == "ruby", package
    for header in recorded.get("headers", ()):
        assert any(f"#include <{header}>" in each for each in samples)
