"""Icecore on a file system that shares blocks, as the data grows: how long the server is held while pgbench writes,
by size and by number of extents; what a backup of nothing changed takes; from a backup to a running server.

    make bench                                                                   see bench/plan.py
    .venv/bin/python bench/large.py --sizes 100M,200M --no-page                  small, to try it
    .venv/bin/python bench/large.py --sizes 1G,4G,16G --name 4-large             as root; some ten minutes, 42 GB

At each size: a backup of what is new (``grown``), then several while two clients of pgbench write (``hold``). At the
last size, quietly: ``unchanged``, ``one_percent``, ``one_percent_run``, ``instant``. Then pages at random are changed
while the image is kept, which scatters the files over many more extents, and ``hold`` again. pgBackRest, if wanted, has
its own full backup of the last size and then the quiet cases. The repositories lie on the same file system.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from contenders import Contender, Icecore, Round  # noqa: E402
from dataset import Differs  # noqa: E402
from load import CLIENTS  # noqa: E402
from places import SHARING  # noqa: E402
from results import Record  # noqa: E402
from running import Bench, Raw, bench, options_of_all, size  # noqa: E402
from source_server import SourceServer  # noqa: E402

LOAD_WARM_S = 5.0


@dataclass(frozen=True)
class Given:
    name: str
    title: str
    sizes: list[int]
    backups: int
    scattered: float
    tools: list[str]
    file_system: str
    no_page: bool
    plain: bool = False


def main() -> None:
    options = options_of_all(argparse.ArgumentParser(description=__doc__, formatter_class=Raw))
    options.add_argument("--sizes", type=lambda text: [size(each) for each in text.split(",")], default=[size("1G")])
    options.add_argument("--backups", type=int, default=3, help="of each kind")
    options.add_argument("--scattered", type=float, default=0.05, help="share of pages changed to scatter the files")
    options.set_defaults(file_system=SHARING[0], tools=["icecore", "pgBackRest"])
    given = Given(**vars(options.parse_args()))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what follows "finally" is done
    with bench(given, given.backups, (6 << 30) + 9 * max(given.sizes) // 4) as running:
        running.data.create(given.sizes[0])
        large = Large(running, given)
        for tool in running.tools:  # Icecore first: the data grows with it
            running.guarded(tool, 0, large.icecore if isinstance(tool, Icecore) else large.other)


@dataclass
class Large:
    running: Bench
    given: Given

    def icecore(self, running: Bench, tool: Contender, go: Round, _: int) -> None:
        assert isinstance(tool, Icecore)
        # The data grows; at each size the server is held under load
        for size_bytes in self.given.sizes:
            if size_bytes != self.given.sizes[0]:
                tool.log_backup(go, "off")  # the server that loads has no place for its slot
                running.data.grow(size_bytes)
                tool.log_backup(go, "on")
                running.data.settle()
            running.say_data()
            tool.make_room(go)
            running.backup("grown", tool, go, 0, tool.backup, told(size_bytes))
            self._hold(tool, go, told(size_bytes))
        # Nothing changes, then little does
        self._quiet(tool, go)
        # A server from the newest backup
        for way in tool.ways():
            try:
                for number in range(self.given.backups):
                    self._instant(tool, go, way, number)
            except Exception as error:  # what follows does not need it
                running.failed(f"{tool.name}, icecore {way}", error)
        # The image pins what is changed now: the live files get their new pages elsewhere
        running.data.change(self.given.scattered, in_one_run=False)
        tool.make_room(go)
        running.backup("grown", tool, go, 0, tool.backup, f"{self._last}, scattered")
        self._hold(tool, go, f"{self._last}, scattered")

    def other(self, running: Bench, tool: Contender, go: Round, _: int) -> None:
        running.backup("grown", tool, go, 0, tool.backup, self._last)
        self._quiet(tool, go)

    @property
    def _last(self) -> str:
        return told(self.given.sizes[-1])

    # ------------------------------------------------------------ cases

    def _hold(self, tool: Icecore, go: Round, label: str) -> None:
        writer = self.running.source.writing(CLIENTS)
        try:
            time.sleep(LOAD_WARM_S)
            for number in range(self.given.backups):
                tool.make_room(go)
                record = self.running.taken("hold", tool, go, number, tool.backup, label)
                record.more["extents"] = extents_of(tool, go)
                self.running.add(record)
        finally:
            writer.terminate()
            writer.wait(30)

    def _quiet(self, tool: Contender, go: Round) -> None:
        """One more than is counted: the first has what pgbench or the loading left."""
        data = self.running.data
        data.settle()
        tool.make_room(go)
        tool.backup_again(go)
        for number in range(self.given.backups):
            data.settle()
            tool.make_room(go)
            self.running.backup("unchanged", tool, go, number, tool.backup_again, self._last)
        for case, in_one_run in (("one_percent", False), ("one_percent_run", True)):
            data.change(0.01, in_one_run=in_one_run)
            tool.make_room(go)
            self.running.backup(case, tool, go, 0, tool.backup_again, self._last)

    def _instant(self, tool: Icecore, go: Round, way: str, number: int) -> None:
        """Until a row was read from the new server; the first one is compared with the source."""
        os.sync()
        name, began = f"{way}-{number}", time.monotonic()
        taken, port = tool.instant(go, way, name)
        copy = Answering(go.place, port)
        copy.sql("SELECT count(*) FROM pgbench_branches")
        wall_s = time.monotonic() - began
        if number == 0 and self.running.data.fingerprint(copy) != self.running.data.fingerprint(go.source):
            raise Differs(f"the server {name} differs from its source")
        tool.drop(go, way, name)
        label, more = f"{self._last}, icecore {way}", {"command_s": taken.wall_s}
        self.running.add(Record("instant", tool.name, number, wall_s, taken.cpu_s, taken.peak_bytes, 0, label, more))


class Answering(SourceServer):
    """A server that Icecore started, at a port of this host."""

    @property
    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"


def extents_of(tool: Icecore, go: Round) -> int:
    """Of all files of the newest image: as many as were cloned."""
    from icecore.images.extents import NoMap, extents

    found = 0
    for path in tool.image_files(go):
        with path.open("rb") as file:
            try:
                found += len(extents(file.fileno()))
            except NoMap:
                continue
    return found


def told(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:g} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:g} MB"


if __name__ == "__main__":
    main()
