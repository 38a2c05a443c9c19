"""Backups of a real server into a real repository, and back, without catalog, jobs and processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import world
from icecore import backup, restore
from icecore.engines import RestoreTarget
from icecore.engines.postgresql import PostgresEngine, PostgresRestore
from icecore.engines.postgresql.server import PostgresServer
from icecore.images import PLACE
from icecore.imaging import Noting
from icecore.model import Phase
from icecore.repository import Repository
from icecore.storage.local import LocalStorage
from world import PostgresWorld

CLUSTER = "pc-house"


class Acting:
    """A watch that does something when a step comes for the n-th time (``copying:3``), and remembers the steps."""

    def __init__(self, at: str = "", act: Callable[[], None] = lambda: None) -> None:
        self.steps: list[str] = []
        self._at, _, nth = at.partition(":")
        self._nth, self._act = int(nth or 1), act

    def phase(self, phase: Phase, total_bytes: int = 0) -> None: ...
    def advance(self, done_bytes: int, new_bytes: int) -> None: ...

    def step(self, name: str) -> None:
        self.steps.append(name)
        if name == self._at and self.steps.count(name) == self._nth:
            self._act()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class House:
    def __init__(self, place: Path, server: PostgresWorld, name: str = "house", *, stream: bool = False) -> None:
        self.server, self._place = server, place / name
        (self._place / "repository").mkdir(parents=True)
        self.repository = Repository.create(LocalStorage(self._place / "repository"), None)
        self.engine = PostgresEngine(server.dsn(), None, name="orders", stream=stream)
        self.noting: Noting = lambda parents: None

    def back_up(self, number: int, watch: backup.Watch | None = None, *, images: bool = True) -> backup.BackupDone:
        order = backup.BackupOrder(str(number), CLUSTER, "orders", f"{self._place.name}-{number}")
        scratch = self._place / f"scratch-{number}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        noting = self.noting if images else None
        return backup.run(
            self.engine, self.repository, order, watch or Acting(), scratch=scratch, threads=2, images=noting
        )

    def back_up_and_die(self, number: int, step: str, spoil: Callable[[], None] = lambda: None) -> None:
        """In a process that is killed at the step, or where ``spoil`` says so; it must not come to an end."""
        child = os.fork()
        if not child:
            try:
                spoil()
                self.back_up(number, Acting(step, die))
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"it was not killed at {step}"

    def stored(self, number: int, path: str) -> bytes:
        reader = self.repository.reader(CLUSTER, str(number))
        (file,) = [file for file in reader.files() if file.meta.path == path]
        return b"".join(reader.block(file.blocks[at : at + 32]) for at in range(0, len(file.blocks), 32))

    def images(self) -> list[str]:
        """Names of what lies beside the server's data: images, finished or not."""
        return sorted(path.name for path in (self.server.place / PLACE / CLUSTER).glob("*") if path.is_dir())

    def restored(self, number: int) -> PostgresServer:
        """A running server, from the repository alone."""
        reader, engine = self.repository.reader(CLUSTER, str(number)), PostgresRestore()
        where = world.server_place(self._place.parent, f"restored-{number}")
        spaces = {link: self._place.parent / f"{number}-{link[-5:]}" for link in restore.tablespaces(reader.facts)}
        plan = restore.plan(
            reader,
            engine,
            RestoreTarget(where.data_directory, spaces),
            owner=where.owner,
            block_bytes=self.repository.block_bytes,
        )
        restore.run(plan, reader, engine, Acting(), threads=2)
        server = engine.server(reader.facts, where)
        server.prepare()
        server.start(60)
        return server


def fill(filler: Path, left_share: float) -> None:
    """Leave so much of the file system free."""
    with filler.open("wb") as file:
        free = os.fstatvfs(file.fileno())
        os.posix_fallocate(file.fileno(), 0, int(free.f_frsize * (free.f_bavail - free.f_blocks * left_share)))
