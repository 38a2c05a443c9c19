"""Libraries that have exactly the names in ``tests/vectors/sdk_names.json``, and nothing behind them.

The names and types were read from the vendor's sources, whose registries are not everywhere to be had. A sample that
compiles against these uses no other name and gives no other type. The PHP and Ruby ones also answer: with the call
that they were asked to make.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMES: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "sdk_names.json").read_bytes())

Type = dict[str, Any]


def write(language: str, place: Path) -> list[Path]:
    """Source files below ``place``; which ones to give to the compiler."""
    return _WRITERS[language](NAMES[language]["types"], place)


def _written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _numbered(types: list[str]) -> str:
    return ", ".join(f"{kind} a{n}" for n, kind in enumerate(types))


# ---------------------------------------------------------------- Java


def _java(types: dict[str, Type], place: Path) -> list[Path]:
    files = []
    for name, each in types.items():
        package, _, short = name.rpartition(".")
        text = f"package {package};\n{_java_class(short, each, types)}"
        files.append(_written(place / f"{name.replace('.', '/')}.java", text))
    return files


def _java_class(name: str, each: Type, types: dict[str, Type], modifier: str = "public") -> str:
    parent = each.get("extends", "")
    lines = [f"{modifier} class {name}" + (f" extends {parent}" if parent else "") + " {"]
    if "constructor" in each:
        inherited = "super(a0);" if "constructor" in types.get(parent, {}) else ""
        lines.append(f"public {name}({_numbered(each['constructor'])}) throws Exception {{ {inherited} }}")
    for kind in ("methods", "static"):
        for method, (taken, given) in each.get(kind, {}).items():
            prefix = "public static" if kind == "static" else "public"
            lines.append(f"{prefix} {given} {method}({_numbered(taken)}) {{ return null; }}")
    lines += [_java_class(inner, its, types, "public static") for inner, its in each.get("types", {}).items()]
    return "\n".join([*lines, "}", ""])


# ---------------------------------------------------------------- C#


def _csharp(types: dict[str, Type], place: Path) -> list[Path]:
    lines = ["using System.Collections.Generic;"]
    for name, each in types.items():
        namespace, _, short = name.rpartition(".")
        lines.append(f"namespace {namespace} {{\n{_csharp_class(short, each, types)}}}")
    return [_written(place / "stubs.cs", "\n".join(lines))]


def _csharp_class(name: str, each: Type, types: dict[str, Type]) -> str:
    parent, fixed = each.get("extends", ""), "static " if "static" in each else ""
    lines = [f"public {fixed}class {name}" + (f" : {parent}" if parent else "") + " {"]
    if "constructor" in each:
        inherited = " : base(a0)" if "constructor" in types.get(parent, {}) else ""
        lines.append(f"public {name}({_numbered(each['constructor'])}){inherited} {{ }}")
    lines += [f"public {kind} {member} {{ get; set; }}" for member, kind in each.get("properties", {}).items()]
    for methods in (each.get("methods", {}), each.get("static", {})):
        for method, (taken, given) in methods.items():
            lines.append(f"public {fixed}{given} {method}({_numbered(taken)}) {{ return default({given}); }}")
    lines += [_csharp_class(inner, its, types) for inner, its in each.get("types", {}).items()]
    return "\n".join([*lines, "}", ""])


# ---------------------------------------------------------------- Go


def _go(types: dict[str, Type], place: Path) -> list[Path]:
    """A module for the samples in ``place``, which takes its three requirements from folders beside it."""
    modules = [*NAMES["go"]["packages"], "github.com/alibabacloud-go/tea"]
    packages: dict[str, list[str]] = {}
    for name, each in types.items():
        package, _, short = name.rpartition(".")
        packages.setdefault(package, []).extend(_go_declarations(short, each))
    for package, lines in packages.items():
        text = "\n".join(lines)
        imports = [
            f'import "{other}"' for other in packages if other != package and f"{other.rpartition('/')[2]}." in text
        ]
        module = next(m for m in modules if package.startswith(m))
        folder = place / "stubs" / str(modules.index(module)) / package[len(module) :].strip("/")
        _written(folder / "stub.go", "\n".join([f"package {package.rpartition('/')[2]}", *imports, text]))
    for at, module in enumerate(modules):
        _written(place / "stubs" / str(at) / "go.mod", f"module {module}\n")
    versions = ["v8.0.0", "v2.0.0", "v1.0.0"]
    needs = [f"require {module} {version}" for module, version in zip(modules, versions, strict=True)]
    needs += [f"replace {module} => ./stubs/{at}" for at, module in enumerate(modules)]
    _written(place / "go.mod", "\n".join(["module samples", "go 1.19", *needs, ""]))
    for at, module in enumerate(modules):
        inside = [other for other in modules if other != module]
        needs = [f"require {other} {versions[modules.index(other)]}" for other in inside]
        _written(place / "stubs" / str(at) / "go.mod", "\n".join([f"module {module}", "go 1.14", *needs, ""]))
    return []


def _go_declarations(name: str, each: Type) -> Iterator[str]:
    if "function" in each:
        taken, given = each["function"]
        yield f'func {name}({_go_taken(taken)}) {given} {{ panic("") }}'
        return
    yield f"type {name} struct{{}}"
    for method, (taken, given) in each["methods"].items():
        yield f'func (it *{name}) {method}({_go_taken(taken)}) {given} {{ panic("") }}'


def _go_taken(types: list[str]) -> str:
    return ", ".join(f"a{n} {kind}" for n, kind in enumerate(types))


# ---------------------------------------------------------------- C++


def _cpp(types: dict[str, Type], place: Path) -> list[Path]:
    lines = ["#pragma once", "#include <cstdint>", "#include <map>", "#include <string>", "#include <vector>"]
    lines.append("using namespace std;")
    split = {name: name.rpartition("::") for name in types}
    lines += [f"namespace {space} {{ class {short}; }}" for space, _, short in split.values()]
    for name in sorted(types, key=lambda each: _depth(each, types)):
        space, _, short = split[name]
        lines.append(f"namespace {space} {{\n{_cpp_class(short, types[name])}}}")
    declared = "\n".join(lines) + "\n"
    return [
        _written(place / header, declared if n == 0 else f'#include "{NAMES["cpp"]["headers"][0]}"\n')
        for n, header in enumerate(NAMES["cpp"]["headers"])
    ]


def _depth(name: str, types: dict[str, Type]) -> int:
    parent = types[name].get("extends", "")
    return 1 + _depth(parent, types) if parent else 0


def _cpp_class(name: str, each: Type) -> str:
    parent = each.get("extends", "")
    lines = [f"class {name}" + (f" : public {parent}" if parent else "") + " { public:"]
    lines += [_cpp_class(inner, its) for inner, its in each.get("types", {}).items()]
    if "constructor" in each:
        lines.append(f"{name}({_numbered(each['constructor'])});")
    for method, (taken, given) in each["methods"].items():
        lines.append(f"{given} {method}({_numbered(taken)});")
    return "\n".join([*lines, "};", ""])


# ---------------------------------------------------------------- PHP and Ruby

_PHP_MODEL = """\
namespace Stub {
class Model {
    public function __construct($given = []) {
        foreach ($given as $name => $value) {
            if (!property_exists($this, $name)) { throw new \\Exception(static::class . " has no $name"); }
            $this->$name = $value;
        }
    }
    public function toMap() {
        $map = array_filter(get_object_vars($this), fn($one) => $one !== null);
        foreach ($map as $name => $value) {
            if (is_array($value)) { $map[$name] = array_map(fn($v) => $v instanceof Model ? $v->toMap() : $v, $value); }
        }
        return $map;
    }
}
class Told extends Model {
    public $body; public $told;
    public static function of($action, $query) {
        return new Told(['body' => new Told(['told' => ['action' => $action, 'query' => $query]])]);
    }
    public function toMap() { return $this->told; }
}
}
"""


def _php(types: dict[str, Type], place: Path) -> list[Path]:
    parts = ["<?php", _PHP_MODEL]
    for name, each in types.items():
        namespace, _, short = name.rpartition("\\")
        parts.append(f"namespace {namespace} {{\nclass {short}{_php_class(each)}\n}}")
    _written(place / "vendor" / "stubs.php", "\n".join(parts))
    return [_written(place / "vendor" / "autoload.php", "<?php require_once __DIR__ . '/stubs.php';\n")]


def _php_class(each: Type) -> str:
    if "properties" in each:
        return " extends \\Stub\\Model {" + " ".join(f"public ${name};" for name in each["properties"]) + "}"
    lines = [f"{{ public function __construct(\\{each['constructor'][0]} $config) {{}}"]
    for method in each["methods"]:
        if method == "callApi":
            answer = "return ['body' => ['action' => $action->action, 'query' => $request->query]];"
            taken = (
                "\\Darabonba\\OpenApi\\Models\\Params $action, \\Darabonba\\OpenApi\\Models\\OpenApiRequest $request,"
                " \\AlibabaCloud\\Dara\\Models\\RuntimeOptions $runtime"
            )
            lines.append(f"public function callApi({taken}) {{ {answer} }}")
        else:
            model = f"Models\\{method[0].upper()}{method[1:]}Request"
            answer = f"return \\Stub\\Told::of('{method}', $request->toMap());"
            lines.append(f"public function {method}({model} $request) {{ {answer} }}")
    return "\n".join([*lines, "}"])


def _ruby(types: dict[str, Type], place: Path) -> list[Path]:
    client = types["RPCClient"]
    text = f"""\
class RPCClient
  def initialize(config, verbose = false)
    raise "not of RPCClient: #{{config.keys}}" unless config.keys.map(&:to_s) == {json.dumps(client["constructor"])}
  end

  def request(action:, params: {{}}, opts: {{}})
    raise "not a method: #{{opts}}" unless {json.dumps(client["options"]["method"])}.include?(opts.fetch(:method))
    {{ 'action' => action, 'query' => params }}
  end
end
"""
    return [_written(place / "aliyunsdkcore.rb", text)]


_WRITERS: dict[str, Callable[[dict[str, Type], Path], list[Path]]] = {
    "java": _java,
    "csharp": _csharp,
    "go": _go,
    "cpp": _cpp,
    "php": _php,
    "ruby": _ruby,
}
