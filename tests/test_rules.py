"""The shape of the house: which module may know which, what modules may not be called, and where laws are kept.

Read from the sources (AST and comments), never by importing them. Each check is a function from a tree of files to
a list of complaints, so that the checks are themselves tested on small trees that break a rule.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "icecore"
TESTS = ROOT / "tests"

PURE = {"model", "binding", "errors", "explanations", "recovery", "retention", "schedule", "drills"}
FOUND = {"evidence"}  # pure, too: what engines find, the repository keeps, and catalog, API and command line show
PROCEDURES = {
    "backup",
    "copying",
    "receiving",
    "crew",
    "laps",
    "pace",
    "imaging",
    "restore",
    "laying",
    "delta",
    "moments",
    "check",
    "verify",
    "archive",
    "prune",
}
CONTRACTS = {"storage", "engines", "repository"}  # the packages' own names; "storage.local" is not among them
# the worker and its pieces
WORK = {"worker", "tasks", "watch", "keeper", "archiver", "pinned", "scheduler", "idle", "sole"}
PARTS = {"storage.*", "engines.*", "repository.*"}

# Who may import what of ours, by the first name that fits; `name` means that module alone, `name.*` all below it.
# A package's own modules may always import each other.
EDGES: list[tuple[str, set[str]]] = [
    *((name, PURE) for name in sorted(PURE | FOUND)),
    ("config", PURE | {"cores"}),
    ("cores", set()),  # what the machine gives
    ("directio", set()),  # bytes between disk and memory, for whoever moves many
    ("storage", {"errors", "directio"}),
    # its threads say where time goes
    ("repository", {"errors", "model", "storage", "directio", "binding", "laps"} | FOUND),
    ("engines", {"errors", "model", "directio"} | FOUND),
    ("images", PURE),
    *((name, PURE | FOUND | CONTRACTS | PROCEDURES | {"images", "directio", "cores"}) for name in sorted(PROCEDURES)),
    ("catalog", PURE | FOUND | {"config"}),
    ("migrations", PURE | {"catalog", "catalog.*"}),
    ("parts", PURE | CONTRACTS | PARTS | {"config"}),  # names the concrete ones, so that nobody else has to
    *(
        (
            name,
            WORK
            | PURE
            | FOUND
            | CONTRACTS
            | PROCEDURES
            | {"tasks.*", "catalog", "catalog.*", "config", "images", "images.standing", "parts"},
        )
        for name in sorted(WORK)
    ),
    ("api.operations", PURE | FOUND | {"catalog", "catalog.*", "api.contract"}),
    ("api", PURE | {"api.*"}),
    ("console", PURE | {"api", "api.*"}),
    # Where everything is put together: the composition, the process that serves it, the command line.
    ("app", {"*"}),
    ("serve", {"*"}),
    ("cli", {"*"}),
]

# Who may import a library that decides a shape of the house.
LIBRARIES: dict[str, set[str]] = {
    "dbos": {"worker", "catalog"},
    "sqlalchemy": {"catalog", "migrations", "api"},  # api: rows of the catalog, by type
    "alembic": {"catalog", "migrations"},
    "psycopg": {"engines", "parts", "cli"},  # the last two read a DSN
    "starlette": {"api", "console"},
    "jinja2": {"console"},
    "pygments": {"console"},
    "uvicorn": {"api"},
    "prometheus_client": {"api"},
    "cryptography": {"repository", "api", "catalog"},
    "blake3": {"repository"},
    "zstandard": {"repository"},
}

EMPTY_WORDS = {"utils", "util", "helpers", "helper", "common", "base", "manager", "service", "handler", "misc"}
LINES_AT_MOST = 600

# A law's mark is a comment that begins with its id ("# R2", "# R2, R3: ..."), in the part of the tree it governs.
LAW_ID = r"(?:R[1-8]|C[1-5]|A[1-3]|P[12])"
LAW_PARTS = {
    "R": ("repository", "storage", "backup", "restore", "worker"),
    "C": ("catalog", "worker", "api", "model"),
    "A": ("api", "catalog", "app"),
    "P": ("recovery", "restore"),
}
LAWS_OF_A_LATER_ISSUE: set[str] = set()  # written down already, not upheld yet


# ---------------------------------------------------------------- reading


def modules(source: Path) -> Iterator[tuple[str, Path]]:
    """``("catalog.jobs", path)`` for each module; a package's ``__init__`` bears the package's name."""
    for path in sorted(source.rglob("*.py")):
        parts = list(path.relative_to(source).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        yield ".".join(parts), path


def imports(path: Path, module: str, known: set[str]) -> Iterator[str]:
    """Dotted names that a file imports, also inside functions and under TYPE_CHECKING: knowing is knowing."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                above = ["icecore", *package.split(".")] if package else ["icecore"]
                above = above[: len(above) - node.level + 1]
                start = ".".join([*above, start] if start else above)
            for alias in node.names:
                whole = f"{start}.{alias.name}"
                # "from icecore import errors" names a module, "from icecore.errors import Usage" does not.
                yield whole if whole.removeprefix("icecore.") in known else start


def fits(name: str, allowed: set[str]) -> bool:
    if "*" in allowed or name in allowed:
        return True
    return any(entry.endswith(".*") and name.startswith(entry[:-1]) for entry in allowed)


def home(module: str) -> str:
    """The entry of EDGES that governs a module."""
    for name, _ in EDGES:
        if module == name or module.startswith(name + "."):
            return name
    return ""


# ---------------------------------------------------------------- checking


def wrong_edges(source: Path) -> list[str]:
    found = list(modules(source))
    known = {name for name, _ in found}
    allowed_by = dict(EDGES)
    complaints = []
    for module, path in found:
        if not module:  # icecore/__init__.py: nothing but the version
            complaints += [f"icecore imports {name}" for name in imports(path, module, known) if "icecore" in name]
            continue
        place = home(module)
        if not place:
            complaints.append(f"{module}: not in design.md §3; give it a place in EDGES")
            continue
        for name in imports(path, module, known):
            if name == "icecore" or not name.startswith("icecore."):
                library = name.split(".")[0]
                if library in LIBRARIES and module.split(".")[0] not in LIBRARIES[library]:
                    complaints.append(f"{module} imports {library}")
                continue
            other = name.removeprefix("icecore.")
            inside = home(other) == place
            if not inside and not fits(other, allowed_by[place]):
                complaints.append(f"{module} imports {other}")
    return complaints


def wrong_names(source: Path, *more: Path) -> list[str]:
    # Packages count in the source tree only: tests/service is a kind of test.
    named = [(name.split(".")[-1], path) for name, path in modules(source)]
    named += [(path.stem, path) for tree in more for path in sorted(tree.rglob("*.py"))]
    return [str(path) for name, path in named if EMPTY_WORDS & set(name.lower().split("_"))]


def too_long(*trees: Path) -> list[str]:
    counts = {path: path.read_text(encoding="utf-8").count("\n") for tree in trees for path in tree.rglob("*.py")}
    return [f"{path}: {lines} lines" for path, lines in sorted(counts.items()) if lines > LINES_AT_MOST]


def written_laws(page: Path) -> set[str]:
    """First column of the tables in docs/invariants.md: ``| **R2** | ...``."""
    return set(re.findall(rf"^\|\s*\*\*({LAW_ID})\*\*\s*\|", page.read_text(encoding="utf-8"), re.MULTILINE))


def marked_laws(source: Path) -> set[str]:
    laws: set[str] = set()
    for module, path in modules(source):
        text = path.read_text(encoding="utf-8")
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type != tokenize.COMMENT:
                continue
            mark = re.match(rf"#\s*({LAW_ID}(?:\s*(?:,|and)\s*{LAW_ID})*)(?![\w.–-])", token.string)
            ids = re.findall(LAW_ID, mark.group(1)) if mark else []
            laws |= {law for law in ids if module.split(".")[0] in LAW_PARTS[law[0]]}
    return laws


def laws_in_test_names(tests: Path) -> set[str]:
    """Ids inside the names of test functions (``test_R2_a_pack_is_durable_before_...``) and test classes."""
    laws: set[str] = set()
    for path in tests.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name.lower().startswith(
                "test"
            ):
                laws |= set(re.findall(rf"(?<![A-Za-z0-9])({LAW_ID})(?![A-Za-z0-9])", node.name.replace("_", " ")))
    return laws


# ---------------------------------------------------------------- the rules hold


def test_modules_import_only_along_the_arrows() -> None:
    assert wrong_edges(SOURCE) == []


def test_no_file_has_an_empty_name() -> None:
    assert wrong_names(SOURCE, TESTS, ROOT / "bench", ROOT / "scripts") == []


def test_no_file_is_too_long() -> None:
    assert too_long(SOURCE, TESTS, ROOT / "bench", ROOT / "scripts", ROOT / "contrib") == []


def test_every_law_is_written_down_once_marked_in_the_source_and_tested() -> None:
    written = written_laws(ROOT / "docs" / "invariants.md")
    marked = marked_laws(SOURCE)
    tested = laws_in_test_names(TESTS)
    assert written >= LAWS_OF_A_LATER_ISSUE
    owed = written - LAWS_OF_A_LATER_ISSUE
    assert {
        "written but not marked": sorted(owed - marked),
        "written but not tested": sorted(owed - tested),
        "marked but not written": sorted(marked - written),
        "tested but not written": sorted(tested - written),
    } == {
        "written but not marked": [],
        "written but not tested": [],
        "marked but not written": [],
        "tested but not written": [],
    }


# ---------------------------------------------------------------- the checks can fail


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("model", "errors", "backup", "catalog/jobs", "repository/pack", "storage/local", "engines/postgresql"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        if path.parent != tmp_path:
            (path.parent / "__init__.py").write_text("")
    (tmp_path / "__init__.py").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("model.py", "from icecore import catalog", "model imports catalog"),
        ("model.py", "def late():\n    import icecore.catalog.jobs", "model imports catalog.jobs"),
        (
            "repository/pack.py",
            "from icecore.storage.local import LocalStorage",
            "repository.pack imports storage.local",
        ),
        ("repository/pack.py", "from ..storage import local", "repository.pack imports storage.local"),
        ("backup.py", "from .catalog import jobs", "backup imports catalog.jobs"),
        ("backup.py", "import dbos.queue", "backup imports dbos"),
        ("engines/postgresql.py", "from icecore.repository import Reader", "engines.postgresql imports repository"),
        ("storage/local.py", "from icecore.model import FileMeta", "storage.local imports model"),
        ("strange.py", "", "strange: not in design.md §3; give it a place in EDGES"),
    ],
)
def test_a_forbidden_edge_is_found(tree: Path, file: str, line: str, complaint: str) -> None:
    (tree / file).write_text(line + "\n")
    assert wrong_edges(tree) == [complaint]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("repository/pack.py", "from icecore.storage import Storage\nfrom icecore import errors\nfrom . import pack"),
        ("backup.py", "from icecore.repository import Writer\nfrom icecore.engines import Engine"),
        ("catalog/__init__.py", "from icecore.catalog.jobs import x\nimport sqlalchemy"),
    ],
)
def test_an_allowed_edge_is_not(tree: Path, file: str, line: str) -> None:
    (tree / file).write_text(line + "\n")
    assert wrong_edges(tree) == []


def test_empty_names_and_long_files_are_found(tree: Path) -> None:
    (tree / "backup_utils.py").write_text("x = 1\n" * 601)
    assert [Path(name).name for name in wrong_names(tree)] == ["backup_utils.py"]
    assert len(too_long(tree)) == 1


def test_laws_are_read_from_the_three_places(tree: Path) -> None:
    (tree / "laws.md").write_text("| **R2** | a pack ... |\n| R3 | not bold |\ntext **R4**\n")
    assert written_laws(tree / "laws.md") == {"R2"}
    # A mark counts at the start of a comment, in its own part of the tree; a protocol's section "A2" does not.
    (tree / "repository" / "pack.py").write_text("x = 1  # R2, R3: durable\n# see R4\ny = '# R5'\n# R6-like\n")
    (tree / "engines" / "postgresql.py").write_text("# A2: exclusions\n# R1\n")
    assert marked_laws(tree) == {"R2", "R3"}
    (tree / "test_x.py").write_text("def test_R2_and_C1_hold(): pass\ndef helps_R3(): pass\nclass TestR4: pass\n")
    assert laws_in_test_names(tree) == {"R2", "C1"}
