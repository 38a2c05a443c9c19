"""A simulated source behind the real engine contract: files in memory that change while they are read.

For sweeps that need hundreds of backups; what a real server does is tested in ``tests/live``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from icecore import errors
from icecore.engines import BackupSession, Probe, RestoreTarget, SourceFile, SourceVanished
from icecore.model import BackupFacts, Boundary, FileKind, FileMeta, Phase


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, offset: int, into: memoryview) -> int:
        piece = self._content[offset : offset + len(into)]
        into[: len(piece)] = piece
        return len(piece)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...


class _File:
    def __init__(self, source: SimulatedEngine, path: str, content: bytes | None) -> None:
        self._source = source
        kind = FileKind.DIRECTORY if content is None else FileKind.FILE
        self.meta = FileMeta(path, kind, 0o700 if content is None else 0o600, 1_700_000_000, len(content or b""))

    def open(self) -> _Reader:
        if self.meta.path in self._source.vanishing:
            raise SourceVanished
        return _Reader(self._source.files[self.meta.path] or b"")


class SimulatedSession(BackupSession):
    def __init__(self, source: SimulatedEngine) -> None:
        self._source = source
        self.ordered = source.ordered
        self.closed = False

    def files(self) -> Iterator[SourceFile]:
        for path, content in self._source.files.items():
            if path != "global/pg_control":
                yield _File(self._source, path, content)

    def closing_files(self) -> Iterator[SourceFile]:
        yield _File(self._source, "global/pg_control", self._source.files["global/pg_control"])

    def stop(self) -> Boundary:
        return Boundary("0/1", "0/2", 1, 1_700_000_000, 1_700_000_010, 1_700_000_009)

    def tail_files(self) -> Iterator[SourceFile]:
        return iter(())

    def omitted(self) -> frozenset[str]:
        return frozenset(self._source.omitted)

    def warnings(self) -> tuple[str, ...]:
        return ()

    def facts(self) -> dict[str, object]:
        return {"tablespaces": []}

    def alive(self) -> None:
        if self._source.dead:
            raise errors.EngineFailed(doing="copying", reason="the session is gone")

    def __enter__(self) -> SimulatedSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class SimulatedEngine:
    """``files``: path -> content, None for a directory."""

    def __init__(self, files: dict[str, bytes | None], *, ordered: bool = False) -> None:
        self.files = {"global": None, "global/pg_control": b"control" * 100} | files
        self.ordered = ordered
        self.vanishing: set[str] = set()
        self.omitted: set[str] = set()
        self.dead = False
        self.sessions: list[SimulatedSession] = []

    def probe(self) -> Probe:
        size = sum(len(content or b"") for content in self.files.values())
        return Probe("postgresql", "15.18", "15", "1", size, True, "/nowhere")

    def start(self, label: str, scratch: Path) -> SimulatedSession:
        self.sessions.append(SimulatedSession(self))
        return self.sessions[-1]


class SimulatedRestore:
    def check_server(self, facts: BackupFacts) -> None: ...

    def check_target(self, facts: BackupFacts, target: RestoreTarget) -> None:
        if target.data_directory.exists():
            raise errors.TargetRefused(f"{target.data_directory} is not empty")

    def last_paths(self) -> frozenset[str]:
        return frozenset({"global/pg_control"})

    def guarded(self, path: str, content: bytes) -> bytes:
        return content

    def finish_files(self, facts: BackupFacts, target: RestoreTarget, *, durable: bool = True) -> None: ...

    def check_existing(self, facts: BackupFacts, target: RestoreTarget, *, unfinished: bool) -> None: ...

    def server(self, facts: BackupFacts, place: object) -> None:
        raise NotImplementedError("there is no server behind simulated files")


class QuietWatch:
    """Watches nothing; ``on_step`` may raise."""

    def __init__(self, on_step=lambda name: None) -> None:
        self.steps: list[str] = []
        self._on_step = on_step

    def phase(self, phase: Phase, total_bytes: int = 0) -> None: ...
    def advance(self, done_bytes: int, new_bytes: int) -> None: ...

    def step(self, name: str) -> None:
        self.steps.append(name)
        self._on_step(name)


def some_files(seed: int, *, block_bytes: int = 4096) -> dict[str, bytes | None]:
    """Directories, empty, small, block-sized and larger files; some alike, some incompressible, some zero."""
    dice = random.Random(seed)
    files: dict[str, bytes | None] = {"base": None, "base/1": None, "base/1/empty": b""}
    for number, size in enumerate((1, block_bytes - 1, block_bytes, block_bytes + 1, 5 * block_bytes + 17)):
        files[f"base/1/{number}"] = dice.randbytes(size)
    files["base/1/zeros"] = bytes(3 * block_bytes)
    files["base/1/text"] = b"all work and no play " * 600
    files["base/1/twin"] = files["base/1/4"]
    return files


def tree(root: Path) -> dict[str, bytes | None]:
    """A directory's content in the form of ``SimulatedEngine.files``."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }
