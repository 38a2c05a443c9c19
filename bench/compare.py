"""Full backup and restore by Icecore, pg_basebackup and pgBackRest, in turn on the same server, several rounds.

    make bench                      five rounds on about 1.5 GB; writes docs/benchmarks.md
    make bench BENCH='--rounds 1 --scale 10 --random-mb 50 --no-page'

Tools are interleaved within a round and their order turns, so that what else the machine does hits all alike; what is
compared are the ratios within a round. Data lies in the page cache after the first reading: disks are not measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from contenders import Contender, Icecore, PgBackRest, PgBaseBackup, Round, machine, versions  # noqa: E402
from measure import Measured  # noqa: E402
from source_server import SourceServer, free_port, server_user, stop_server  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"
BASELINE = "icecore"


@dataclass(frozen=True)
class Result:
    backup: Measured
    restore: Measured
    stored_bytes: int


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--scale", type=int, default=60, help="pgbench's; 15 MB each")
    options.add_argument("--random-mb", type=int, default=400, help="a table that does not compress")
    options.add_argument("--no-page", action="store_true", help="print only")
    given = options.parse_args()
    place = Path(tempfile.mkdtemp(prefix="icecore-bench-", dir="/tmp"))
    place.chmod(0o755)
    own(place)
    source = SourceServer(place / "source")
    try:
        results, tools, size_bytes = measure(source, place, given.rounds, given.scale, given.random_mb)
        text = page(results, tools, size_bytes, source, given)
        print(text)
        if not given.no_page:
            PAGE.write_text(text, encoding="utf-8")
    finally:
        stop_server(source.bin, source.data)
        shutil.rmtree(place, ignore_errors=True)


def measure(
    source: SourceServer, place: Path, rounds: int, scale: int, random_mb: int
) -> tuple[dict[str, list[Result]], list[Contender], int]:
    # One server for all; it archives, since pgBackRest needs that
    config = place / "pgbackrest.conf"
    source.create(
        shared_buffers="'256MB'",
        max_wal_size="'2GB'",
        archive_mode="on",
        archive_command=f"'pgbackrest --config={config} --stanza=main archive-push %p'",
    )
    tools: list[Contender] = [Icecore(), PgBaseBackup(), PgBackRest(config)]

    # Data: half of it compresses well, half not at all. Loaded without an archive, which would only fill it.
    source.start()
    source.sql("ALTER SYSTEM SET archive_command = '/bin/true'")
    source.sql("SELECT pg_reload_conf()")
    source.pgbench("-i", "-q", "-s", str(scale))
    source.sql("CREATE EXTENSION pgcrypto")
    source.sql("CREATE TABLE noise (id int PRIMARY KEY, bytes bytea)")
    source.sql("ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL")
    source.sql(f"INSERT INTO noise SELECT i, gen_random_bytes(1024) FROM generate_series(1, {random_mb * 1000}) i")
    source.sql("VACUUM ANALYZE")
    source.sql("CHECKPOINT")
    size_bytes = int(source.sql("SELECT pg_database_size('postgres')")[0][0])
    expected = fingerprint(source)

    # Rounds; the first tool of each is another one
    results: dict[str, list[Result]] = {tool.name: [] for tool in tools}
    for number in range(rounds):
        for tool in tools[number % len(tools) :] + tools[: number % len(tools)]:
            go = Round(place / f"{number}-{tool.name}", source)
            go.place.mkdir(mode=0o755)
            own(go.place)
            archive(source, isinstance(tool, PgBackRest))
            try:
                tool.prepare(go)
                os.sync()
                backup = tool.backup(go)
                stored_bytes = tool.stored_bytes(go)
                os.sync()
                result = Result(backup, tool.restore(go), stored_bytes)
            finally:
                tool.end()
            if number == 0:
                prove(go, expected)
            results[tool.name].append(result)
            seconds = f"backup {backup.wall_s:6.2f} s  restore {result.restore.wall_s:6.2f} s"
            print(f"round {number + 1} {tool.name:<14} {seconds}", file=sys.stderr)
            shutil.rmtree(go.place)
    return results, tools, size_bytes


def archive(source: SourceServer, wanted: bool) -> None:
    """pgBackRest's archiving is on in its own turns only: nobody else pays for it."""
    source.sql("ALTER SYSTEM RESET archive_command" if wanted else "ALTER SYSTEM SET archive_command = '/bin/true'")
    source.sql("SELECT pg_reload_conf()")
    time.sleep(0.5)


def fingerprint(server: SourceServer) -> list[tuple[Any, ...]]:
    return server.sql(
        "SELECT (SELECT count(*) FROM pgbench_accounts),"
        " (SELECT sum(aid::numeric * bid + abalance) FROM pgbench_accounts),"
        " (SELECT md5(string_agg(md5(bytes), '' ORDER BY id)) FROM noise)"
    )


def prove(go: Round, expected: list[tuple[Any, ...]]) -> None:
    """A backup counts when a server starts on its restore and holds the same data."""
    copy = SourceServer(go.place, free_port(), go.source.bin, go.restored.name)
    with (go.restored / "postgresql.auto.conf").open("a") as file:
        file.write(f"archive_mode = 'off'\nport = {copy.port}\nunix_socket_directories = '{go.place}'\n")
    copy.start()
    try:
        held = fingerprint(copy)
    finally:
        copy.stop()
    if held != expected:
        raise SystemExit(f"the restore in {go.place} differs from its source")


def own(place: Path) -> None:
    _, uid, gid = server_user()
    os.chown(place, uid, gid)


# ---------------------------------------------------------------- the page


def page(
    results: dict[str, list[Result]],
    tools: list[Contender],
    size_bytes: int,
    source: SourceServer,
    given: argparse.Namespace,
) -> str:
    here = machine()
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; do not edit. Read `bench/compare.py` for what is done, exactly.",
        "",
        f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {here['cores']} cores ({here['processor']}), "
        f"{here['memory_gb']} GB, {here['file_system']}; load average at the end {os.getloadavg()[1]:.1f}",
        f"- {', '.join(f'{name} {version}' for name, version in versions(source).items())}",
        f"- {size_bytes / 1e9:.2f} GB: pgbench scale {given.scale} and {given.random_mb} MB that do not compress; "
        "page checksums on; in the page cache; nobody writes",
        f"- {given.rounds} rounds, tools interleaved, order turned each round; each starts from an empty destination; "
        "each tool's first restore was started and compared with the source",
        "- full backups only; times are those of the whole command, with the start of the program",
        "",
    ]
    lines += [f"- **{tool.name}**: {tool.note}" for tool in tools]
    for title, pick in (("Backup", "backup"), ("Restore", "restore")):
        lines += [
            "",
            f"## {title}",
            "",
            "| tool | seconds: median (min–max) | CPU s | peak memory | time relative to Icecore |",
        ]
        lines += ["|---|---|---|---|---|"]
        for tool in tools:
            taken = [getattr(result, pick) for result in results[tool.name]]
            base = [getattr(result, pick).wall_s for result in results[BASELINE]]
            walls = [each.wall_s for each in taken]
            ratios = [wall / against for wall, against in zip(walls, base, strict=True)]
            lines.append(
                f"| {tool.name} | {spread(walls)} | {statistics.median(each.cpu_s for each in taken):.1f} "
                f"| {max(each.peak_bytes for each in taken) / 1e6:.0f} MB | {spread(ratios)} |"
            )
    lines += ["", "## Stored", "", "| tool | size |", "|---|---|"]
    lines += [
        f"| {tool.name} | {statistics.median(each.stored_bytes for each in results[tool.name]) / 1e6:.0f} MB |"
        for tool in tools
    ]
    lines += [
        "",
        "CPU is that of the tool's own processes: what the server does for `pg_basebackup` is not in it. Peak memory",
        "is the largest sum of resident sets of the tool's processes, sampled each 20 ms.",
    ]
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    main()
