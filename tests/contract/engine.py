"""What every engine promises, as tests. An engine's own file makes the fixtures ``engine``, ``restore`` and ``server``
(something whose ``traces()`` names what a backup may not leave behind) and inherits ``EngineContract``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icecore.engines import Engine, RestoreEngine, RestoreTarget, SourceFile, SourceVanished
from icecore.errors import TargetRefused
from icecore.model import FileKind
from world import as_facts, read_all


def drain(source: SourceFile) -> bytes:
    return read_all(source) if source.meta.kind is FileKind.FILE else b""


class EngineContract:
    def test_probe_finds_nothing_against_a_sound_server(self, engine: Engine) -> None:
        probe = engine.probe()
        assert not [finding for finding in probe.findings if finding.level == "refusal"]
        assert probe.version.startswith(probe.major) and probe.size_bytes > 0 and probe.identity
        json.dumps(probe.details)

    def test_a_whole_backup_keeps_the_order_and_the_names(
        self, engine: Engine, restore: RestoreEngine, server: Any, tmp_path: Path
    ) -> None:
        with engine.start("icecore contract", tmp_path) as session:
            seen: list[str] = []
            directories: set[str] = set()
            for source in session.files():
                meta = source.meta
                assert meta.path not in seen, "a name came twice"
                assert meta.path not in restore.last_paths(), "a closing file came among the others"
                assert not meta.path.startswith("/") and ".." not in meta.path.split("/")
                assert meta.mode == meta.mode & 0o7777
                if meta.kind is FileKind.DIRECTORY:
                    directories.add(meta.path)
                assert len(drain(source)) <= meta.size_bytes
                seen.append(meta.path)
                session.alive()
            closing = list(session.closing_files())
            assert {source.meta.path for source in closing} == restore.last_paths()
            assert all(len(drain(source)) == source.meta.size_bytes for source in closing)
            boundary = session.stop()
            session.alive()
            tail = list(session.tail_files())
            for source in tail:
                assert len(drain(source)) == source.meta.size_bytes, source.meta.path
                assert source.meta.path not in seen
            assert session.omitted() <= set(seen)
            assert boundary.started_at <= boundary.stopped_at and boundary.consistent_at <= boundary.stopped_at
            assert not session.warnings()
            facts = as_facts(session, boundary, 1, len(seen))
            assert json.loads(json.dumps(facts.engine_facts)) == facts.engine_facts
        assert not list(tmp_path.iterdir()), "scratch files are left"
        assert not server.traces()

    def test_an_abandoned_backup_leaves_nothing(self, engine: Engine, server: Any, tmp_path: Path) -> None:
        with (
            pytest.raises(ZeroDivisionError),
            engine.start("icecore contract", tmp_path) as session,
        ):
            next(iter(session.files()))
            raise ZeroDivisionError
        assert not list(tmp_path.iterdir())
        assert not server.traces()

    def test_an_unordered_file_reads_the_same_in_any_pieces(self, engine: Engine, tmp_path: Path) -> None:
        with engine.start("icecore contract", tmp_path) as session:
            if session.ordered:
                pytest.skip("a stream has one order only")
            largest = max(
                (source for source in session.files() if source.meta.kind is FileKind.FILE),
                key=lambda source: source.meta.size_bytes,
            )
            whole = read_all(largest)
            assert len(whole) == largest.meta.size_bytes > 0
            with largest.open() as one, largest.open() as two:
                for at, length in ((len(whole) - 5, 64), (0, 1), (8192 + 7, 40_000), (len(whole), 16), (4096, 8192)):
                    view = memoryview(bytearray(length))
                    for reader in (two, one):
                        count = reader.read(at, view)
                        assert bytes(view[:count]) == whole[at : at + length]

    def test_a_dropped_file_says_so(self, engine: Engine, server: Any, tmp_path: Path) -> None:
        path = server.make_droppable()
        with engine.start("icecore contract", tmp_path) as session:
            if session.ordered:
                pytest.skip("the server leaves dropped files out by itself")
            (source,) = [source for source in session.files() if source.meta.path == path]
            server.drop_droppable()
            with pytest.raises(SourceVanished):
                source.open()

    def test_a_filled_target_is_refused(self, engine: Engine, restore: RestoreEngine, tmp_path: Path) -> None:
        scratch, target = tmp_path / "scratch", tmp_path / "target"
        scratch.mkdir()
        target.mkdir()
        with engine.start("icecore contract", scratch) as session:
            for source in (*session.files(),) if not session.ordered else session.files():
                if session.ordered:
                    drain(source)
            for source in session.closing_files():
                drain(source)
            facts = as_facts(session, session.stop(), 1, 1)
        mapped = {
            f"pg_tblspc/{space['oid']}": tmp_path / str(space["oid"]) for space in facts.engine_facts["tablespaces"]
        }
        restore.check_target(facts, RestoreTarget(target, mapped))
        (target / "something").touch()
        with pytest.raises(TargetRefused, match="not empty"):
            restore.check_target(facts, RestoreTarget(target, mapped))
