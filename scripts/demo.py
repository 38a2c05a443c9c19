"""The whole way, seen from outside: a PostgreSQL that is being written to, backed up by a call of Alibaba Cloud's own
SDK, restored to a new cluster by another call, and compared row by row.

    make demo            two minutes at most; cleans up
    make demo KEEP=1     stays up afterwards, to be played with, until Ctrl-C

Nothing here is simulated: Icecore runs as its users run it, through its command line and its endpoint.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from alibabacloud_polardb20170801 import models
from alibabacloud_polardb20170801.client import Client
from alibabacloud_tea_openapi.models import Config
from source_server import Ledger, SourceServer, stop_server

ICECORE = Path(sys.executable).with_name("icecore")
PGBENCH_SCALE = 20  # 2 000 000 accounts, about 300 MB
LEDGER_SECONDS_BEFORE = 2


class Demo:
    def __init__(self, place: Path, keep: bool) -> None:
        self.place = place
        self.keep = keep
        self.home = place / "home"
        self.source = SourceServer(place / "source")
        self.began = time.monotonic()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ledger: Ledger | None = None
        self.failed: list[str] = []

    # ------------------------------------------------------------ the runbook

    def run(self) -> bool:
        """Whether every comparison held."""
        # A cluster with data, being written to
        self.say(f"1. PostgreSQL {self.source.version} with a data set that is being written to")
        self.source.create(shared_buffers="'128MB'", max_wal_size="'1GB'")
        self.source.start()
        self.fill()
        self.processes.append(self.source.writing(clients=2))
        self.ledger = Ledger(self.source.dsn)
        self.ledger.start()
        size_bytes = self.source.sql("SELECT pg_database_size('postgres')")[0][0]
        self.show(f"{size_bytes / 1e6:.0f} MB; pgbench with 2 clients and a ledger of numbered rows keep writing")

        # Icecore, as its user starts it
        self.say("2. Icecore on its defaults: SQLite and a local folder")
        key = json.loads(self.icecore("init", "--json").splitlines()[-1])
        endpoint = self.serve()
        cluster = json.loads(self.icecore("cluster", "add", "shop", "--dsn", self.source.dsn, "--json"))["DBClusterId"]
        self.show(f"cluster shop is {cluster}; the endpoint is {endpoint}")
        time.sleep(LEDGER_SECONDS_BEFORE)

        # The example of the API reference, by the vendor's SDK, unmodified
        self.say("3. CreateBackup by alibabacloud_polardb20170801, unmodified")
        client = Client(
            Config(
                access_key_id=key["AccessKeyId"],
                access_key_secret=key["AccessKeySecret"],
                endpoint=endpoint.removeprefix("http://"),
                protocol="http",
            )
        )
        token = secrets.token_hex(16)
        asked = time.monotonic()
        answer = client.create_backup(models.CreateBackupRequest(dbcluster_id=cluster, client_token=token)).body
        self.show(f"answered in {(time.monotonic() - asked) * 1000:.0f} ms: {json.dumps(answer.to_map())}")
        again = client.create_backup(models.CreateBackupRequest(dbcluster_id=cluster, client_token=token)).body
        self.check("the same ClientToken gives the same job", again.backup_job_id == answer.backup_job_id)

        # Its progress, in PolarDB's own phases
        self.say("4. The job")
        backup = self.wait_for_backup(client, cluster, answer.backup_job_id)
        consistent_at = int(backup["ConsistentTime"])
        took_s = time.monotonic() - asked
        self.check(f"the backup is there after {took_s:.1f} s", backup["BackupStatus"] == "Success")
        self.show(f"BackupId {backup['BackupId']}, ConsistentTime {datetime.fromtimestamp(consistent_at, UTC)}")
        stored = json.loads(self.icecore("repo", "stat", "--json"))
        self.show(f"{stored['LogicalBytes'] / 1e6:.0f} MB are kept in {stored['StoredBytes'] / 1e6:.0f} MB, encrypted")
        time.sleep(1)  # rows that are committed after the backup and must not matter

        # Back again, as a new cluster
        self.say("5. CreateDBCluster from that backup (the restore), by the same SDK")
        made = client.create_dbcluster(
            models.CreateDBClusterRequest(
                region_id="local",
                dbtype="PostgreSQL",
                dbversion=self.source.version.split(".")[0],
                pay_type="Postpaid",
                dbnode_class="any",
                creation_option="CloneFromPolarDB",
                source_resource_id=cluster,
                clone_data_point=backup["BackupId"],
                dbcluster_description="shop-copy",
            )
        ).body
        copy = self.wait_for_cluster(client, made.dbcluster_id)

        # Compare
        self.say("6. Every row, compared")
        self.ledger.stop()
        self.compare(copy, consistent_at)
        self.say("Done: everything is there" if not self.failed else f"FAILED: {'; '.join(self.failed)}")
        self.next_steps(endpoint, copy)
        return not self.failed

    def fill(self) -> None:
        self.source.pgbench("-i", "-q", "-s", str(PGBENCH_SCALE))
        self.source.sql("CREATE TABLE ledger (number bigint PRIMARY KEY, proof text NOT NULL)")
        self.source.sql(
            "CREATE TABLE products AS SELECT i AS id, md5(i::text) AS name FROM generate_series(1, 100000) i"
        )

    def wait_for_backup(self, client: Client, cluster: str, job_id: str) -> dict[str, Any]:
        """Until it is in the list of backups, telling each phase as it comes."""
        phase = ""
        while True:
            tasks = client.describe_backup_tasks(
                models.DescribeBackupTasksRequest(dbcluster_id=cluster, backup_job_id=job_id)
            ).body.to_map()["Items"]["BackupJob"]
            now = f"{tasks[0]['BackupProgressStatus']} {tasks[0]['Process']} %" if tasks else phase
            if now != phase:
                phase = now
                self.show(phase)
            today = datetime.now(UTC)
            found = client.describe_backups(
                models.DescribeBackupsRequest(
                    dbcluster_id=cluster,
                    backup_id=job_id,
                    start_time=f"{today.year}-01-01T00:00Z",
                    end_time=f"{today.year + 1}-01-01T00:00Z",
                )
            ).body.to_map()["Items"]["Backup"]
            if found:
                return dict(found[0])
            time.sleep(0.1)

    def wait_for_cluster(self, client: Client, cluster: str) -> str:
        """The DSN of the restored cluster once it runs."""
        asked = time.monotonic()
        status = ""
        while status != "Running":
            request = models.DescribeDBClusterAttributeRequest(dbcluster_id=cluster)
            now = client.describe_dbcluster_attribute(request).body.dbcluster_status
            if now != status:
                status = now
                self.show(f"{cluster} is {status} after {time.monotonic() - asked:.1f} s")
            time.sleep(0.1)
        ends = client.describe_dbcluster_endpoints(models.DescribeDBClusterEndpointsRequest(dbcluster_id=cluster))
        address = ends.body.to_map()["Items"][0]["AddressItems"][0]
        dsn = f"host={address['IPAddress']} port={address['Port']} user=postgres dbname=postgres"
        self.show(f"it takes writes at {address['IPAddress']} port {address['Port']}")
        return dsn

    def compare(self, copy: str, consistent_at: int) -> None:
        """The copy is the source as of one moment, not before ``consistent_at``."""
        with psycopg.connect(copy, autocommit=True) as connection:

            def one(statement: str) -> Any:
                row = connection.execute(statement).fetchone()  # type: ignore[arg-type]
                return row[0] if row and len(row) == 1 else row

            # What did not change is equal
            digest = "SELECT md5(string_agg(id || name, ',' ORDER BY id)) FROM products"
            self.check("products: 100 000 rows, equal digests", one(digest) == self.source.sql(digest)[0][0])

            # Every row whose commit was acknowledged before ConsistentTime
            assert self.ledger is not None
            before = {number for number, at in self.ledger.acknowledged.items() if at < consistent_at}
            self.check("ledger: it was being written to", len(before) > 100)
            rows = dict(connection.execute("SELECT number, proof FROM ledger").fetchall())
            missing = before - set(rows)
            self.check(f"ledger: {len(before)} rows acknowledged before, {len(missing)} missing", not missing)
            whole = (
                set(rows) == set(range(1, len(rows) + 1))
                and one("SELECT count(*) FROM ledger WHERE proof <> md5(number::text)") == 0
            )
            self.check(f"ledger: {len(rows)} rows in the copy, no gap, none torn", whole)

            # pgbench moves money in one transaction over four tables: a torn one would not add up
            sums = one(
                "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),"
                " (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
            )
            moves = one("SELECT count(*) FROM pgbench_history")
            self.check(f"pgbench: after {moves} transactions four sums are equal", len(set(sums)) == 1)
            accounts = one("SELECT count(*) FROM pgbench_accounts")
            self.check(f"pgbench: {accounts} accounts", accounts == PGBENCH_SCALE * 100_000)
            connection.execute("INSERT INTO ledger VALUES (0, 'written to the copy')")

    # ------------------------------------------------------------ the world around

    def icecore(self, *words: str) -> str:
        command = [str(ICECORE), "--home", str(self.home), *words]
        self.show(f"$ icecore {shlex.join(words)}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"icecore {words[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def serve(self) -> str:
        """Start the server; gives its endpoint."""
        self.show("$ icecore serve")
        with (self.place / "serve.log").open("wb") as log:
            process = subprocess.Popen(
                [ICECORE, "--home", self.home, "serve", "--listen", "127.0.0.1:0", "--json"],
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"icecore serve did not start:\n{(self.place / 'serve.log').read_text()}")
        return str(json.loads(line)["Endpoint"])

    def next_steps(self, endpoint: str, copy: str) -> None:
        print()
        if self.keep:
            print(f"It stays up at {endpoint} until Ctrl-C. From another terminal:")
            print(f"  export ICECORE_HOME={self.home}")
            for line in ("status", "backups", "backup shop", "restore shop --to shop-second", "jobs"):
                print(f"  .venv/bin/icecore {line}")
            print(f"  psql '{copy}'")
        else:
            print("Next, on your own data (make demo KEEP=1 leaves this one up):")
            for line in (
                "init",
                "serve",
                "cluster add NAME --dsn 'host=/var/run/postgresql user=postgres'",
                "backup NAME",
            ):
                print(f"  .venv/bin/icecore {line}")

    def clean_up(self) -> None:
        """End what was started, in the order of dependence, whatever state it is in."""
        if self.ledger is not None:
            self.ledger.stop()
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        for data in [*(self.home / "clusters").glob("*/data"), self.source.data]:
            stop_server(self.source.bin, data)
        shutil.rmtree(self.place, ignore_errors=True)

    def say(self, text: str) -> None:
        print(f"\n[{time.monotonic() - self.began:5.1f} s] {text}", flush=True)

    def show(self, text: str) -> None:
        print(f"          {text}", flush=True)

    def check(self, what: str, held: bool) -> None:
        self.show(f"{'ok    ' if held else 'FAILED'} {what}")
        if not held:
            self.failed.append(what)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--keep", action="store_true", help="stay up until Ctrl-C")
    keep = options.parse_args().keep
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    place = Path(tempfile.mkdtemp(prefix="icecore-demo-", dir="/tmp"))
    place.chmod(0o755)
    demo = Demo(place, keep)
    try:
        held = demo.run()
        if keep and held:
            signal.pause()
        return 0 if held else 1
    except KeyboardInterrupt:
        return 130
    finally:
        # A second Ctrl-C must not leave servers behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("\ncleaning up", flush=True)
        demo.clean_up()


if __name__ == "__main__":
    sys.exit(main())
