"""Icecore, pg_basebackup and pgBackRest, in turn on the same server, several rounds: a full backup and its restore,
then, but for pg_basebackup, a second backup of nothing changed and a third after 1 % of the pages changed.

    make bench                      five rounds on about 1.5 GB; writes docs/benchmarks.md
    make bench BENCH='--rounds 1 --scale 10 --random-mb 50 --no-page'
    make bench BENCH='--file-system xfs --plain --no-page'

ICECORE_BENCH_PGBACKREST names another pgBackRest than the PATH's.

Tools are interleaved within a round and their order turns, so that what else the machine does hits all alike; what is
compared are the ratios within a round. Data lies in the page cache after the first reading: disks are not measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from contenders import Contender, Icecore, PgBackRest, PgBaseBackup, Round, machine, pgbackrest, versions  # noqa: E402
from measure import Measured  # noqa: E402
from page import CASES, Result, Results, Run, page  # noqa: E402
from places import FILE_SYSTEMS, HERE, new_place, own  # noqa: E402
from source_server import SourceServer, as_server_user, free_port, stop_server  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"
TABLES = {
    "pgbench_accounts": ("aid", "filler = md5(random()::text)"),
    "noise": ("id", "bytes = gen_random_bytes(1024)"),
}
NO_ARCHIVE = "/bin/true"


@dataclass(frozen=True)
class Given:
    rounds: int
    scale: int
    random_mb: int
    file_system: str
    plain: bool
    no_page: bool

    @property
    def data_bytes(self) -> int:
        return self.scale * 17_000_000 + self.random_mb * 1_300_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--scale", type=int, default=60, help="pgbench's; 17 MB each")
    options.add_argument("--random-mb", type=int, default=400, help="a table that does not compress")
    options.add_argument(
        "--file-system", choices=FILE_SYSTEMS, default=HERE, help="made and mounted for the run, as root; here: /tmp's"
    )
    options.add_argument("--plain", action="store_true", help="no encryption and no page checks, on all tools")
    options.add_argument("--no-page", action="store_true", help="print only")
    given = Given(**vars(options.parse_args()))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what follows "finally" is done
    with new_place(given.file_system, (8 << 30) + 6 * given.data_bytes) as place:
        source = SourceServer(place / "source")
        try:
            text = measure(source, place, given)
        finally:
            stop_server(source.bin, source.data)
    print(text)
    if not given.no_page:
        PAGE.write_text(text, encoding="utf-8")


def measure(source: SourceServer, place: Path, given: Given) -> str:
    config = place / "pgbackrest.conf"
    tools: list[Contender] = [Icecore(given.plain), PgBaseBackup(given.plain), PgBackRest(config, given.plain)]
    fill(source, config, given)
    size_bytes = int(source.sql("SELECT pg_database_size('postgres')")[0][0])
    results: Results = {case: {tool.name: [] for tool in tools} for case in CASES}
    for number in range(given.rounds):
        for tool in tools[number % len(tools) :] + tools[: number % len(tools)]:
            go = Round(place / f"{number}-{tool.name}", source)
            go.place.mkdir(mode=0o755)
            own(go.place)
            settle(source)
            archive(source, isinstance(tool, PgBackRest))  # its own turns only: nobody else pays for it
            try:
                taken = turn(tool, go, proven=number == 0)
            finally:
                tool.end(go)
            archive(source, False)
            for case, result in taken.items():
                results[case][tool.name].append(result)
            told = "  ".join(f"{case} {each.taken.wall_s:6.2f} s" for case, each in taken.items())
            print(f"round {number + 1} {tool.name:<14} {told}", file=sys.stderr)
            shutil.rmtree(go.place)
    data = f"{size_bytes / 1e9:.2f} GB: pgbench scale {given.scale} and {given.random_mb} MB that do not compress"
    notes = {tool.name: tool.note for tool in tools}
    return page(Run(machine(place), versions(source), data, given.rounds, given.plain, notes), results)


def turn(tool: Contender, go: Round, *, proven: bool) -> dict[str, Result]:
    """All cases of a round, for one tool."""
    tool.prepare(go)
    taken = {"full": backup(tool, go, tool.backup)}
    os.sync()
    taken["restore"] = Result(tool.restore(go), 0)
    if proven:
        prove(go)
    shutil.rmtree(go.restored)
    if tool.increments:
        settle(go.source)
        taken["unchanged"] = backup(tool, go, tool.backup_again)
        change_one_percent(go.source)
        taken["one_percent"] = backup(tool, go, tool.backup_again)
        if proven:
            tool.restore(go)
            prove(go)
    return taken


def backup(tool: Contender, go: Round, take: Callable[[Round], Measured]) -> Result:
    os.sync()
    before_bytes = tool.stored_bytes(go)
    taken = take(go)
    return Result(taken, tool.stored_bytes(go) - before_bytes)


# ---------------------------------------------------------------- the server and its data


def fill(source: SourceServer, config: Path, given: Given) -> None:
    """One server for all; it archives, since pgBackRest needs that. Half of the data compresses well, half not at all.

    Loaded without an archive, which would only fill it. Pages have room for a changed row: a change stays in its page.
    """
    source.create(
        shared_buffers="'256MB'",
        max_wal_size="'2GB'",
        autovacuum="off",  # it would change pages between two backups
        archive_mode="on",
        archive_command=f"'{pgbackrest()} --config={config} --stanza=main archive-push %p'",
    )
    if given.plain:  # the only way to have no tool check them
        as_server_user([source.bin / "pg_checksums", "--disable", "-D", source.data])
    source.start()
    archive(source, False)
    source.pgbench("-i", "-q", "-F", "90", "-s", str(given.scale))
    source.sql("CREATE EXTENSION pgcrypto")
    source.sql("CREATE TABLE noise (id int PRIMARY KEY, bytes bytea) WITH (fillfactor = 85)")
    source.sql("ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL")
    rows = given.random_mb * 1000
    source.sql(f"INSERT INTO noise SELECT i, gen_random_bytes(1024) FROM generate_series(1, {rows}) i")
    source.sql("VACUUM (FREEZE, ANALYZE)")


def archive(source: SourceServer, wanted: bool) -> None:
    """Into pgBackRest's repository, or nowhere."""
    source.sql("ALTER SYSTEM RESET archive_command" if wanted else f"ALTER SYSTEM SET archive_command = '{NO_ARCHIVE}'")
    source.sql("SELECT pg_reload_conf()")
    time.sleep(0.5)


def settle(source: SourceServer) -> None:
    """Whatever reading would still write to a page is written now, and all WAL is archived."""
    source.sql("VACUUM (FREEZE)")
    source.sql("CHECKPOINT")
    # A segment that holds something, so that there is one to archive
    source.sql("SELECT pg_logical_emit_message(false, 'bench', 'settled')")
    wal = source.sql("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
    until = time.monotonic() + 120
    while not source.sql(f"SELECT 1 FROM pg_stat_archiver WHERE last_archived_wal >= '{wal}'"):
        if time.monotonic() > until:
            raise SystemExit(f"the server does not archive {wal}; see {source.place / 'server.log'}")
        time.sleep(0.05)


def change_one_percent(source: SourceServer) -> None:
    """One row in each hundredth page, at random: in place of an old version, without an index's page."""
    for table, (key, change) in TABLES.items():
        pages = source.sql(f"SELECT pg_relation_size('{table}') / 8192")[0][0]
        rows = source.sql(f"SELECT max({key}) FROM {table}")[0][0]
        source.sql(
            f"UPDATE {table} SET {change} WHERE {key} IN"
            f" (SELECT 1 + floor(random() * {rows})::int FROM generate_series(1, {pages // 100}))"
        )
    settle(source)


# ---------------------------------------------------------------- proof


def fingerprint(server: SourceServer) -> list[tuple[Any, ...]]:
    return server.sql(
        "SELECT (SELECT count(*) FROM pgbench_accounts),"
        " (SELECT sum(hashtext(pgbench_accounts::text)::numeric * aid) FROM pgbench_accounts),"
        " (SELECT md5(string_agg(md5(bytes), '' ORDER BY id)) FROM noise)"
    )


def prove(go: Round) -> None:
    """A backup counts when a server starts on its restore and holds what the source holds."""
    copy = SourceServer(go.place, free_port(), go.source.bin, go.restored.name)
    with (go.restored / "postgresql.auto.conf").open("a") as file:
        file.write(f"archive_mode = 'off'\nport = {copy.port}\nunix_socket_directories = '{go.place}'\n")
    copy.start()
    try:
        held = fingerprint(copy)
    finally:
        copy.stop()
    if held != fingerprint(go.source):
        raise SystemExit(f"the restore in {go.place} differs from its source")


if __name__ == "__main__":
    main()
