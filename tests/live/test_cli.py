"""The command line on a real server: with a serving process and without one, secrets, samples that run as printed."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import world
from station import ICECORE, Station, until
from world import PostgresWorld, fingerprint


class Shell:
    """A home at the prompt. ``run`` gives exit code, stdout and stderr."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *words: str, **environment: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [str(ICECORE), "--home", str(self.home), *words],
            capture_output=True,
            text=True,
            timeout=180,
            stdin=subprocess.DEVNULL,
            check=False,
            env={**os.environ, **environment},
        )
        return done.returncode, done.stdout, done.stderr

    def ok(self, *words: str, **environment: str) -> str:
        code, out, err = self.run(*words, **environment)
        assert code == 0, f"{words}: {code}\n{out}\n{err}"
        return out

    def json(self, *words: str) -> Any:
        return json.loads(self.ok(*words, "--json"))


@pytest.fixture
def shell(place: Path) -> Shell:
    """An initialised home where nothing runs."""
    shell = Shell(place / "home")
    shell.ok("init")
    return shell


@pytest.fixture(scope="module")
def guarded(ground: Path) -> Iterator[PostgresWorld]:
    """A server that wants a password over TCP."""
    server = PostgresWorld("15", ground / "guarded").create().start()
    server.sql("CREATE ROLE keeper SUPERUSER LOGIN PASSWORD 'a secret: \\ and more'")
    rules = (
        (server.data / "pg_hba.conf").read_text().replace("127.0.0.1/32            trust", "127.0.0.1/32 scram-sha-256")
    )
    (server.data / "pg_hba.conf").write_text(rules)
    server.sql("SELECT pg_reload_conf()")
    yield server
    server.stop("immediate")


# ---------------------------------------------------------------- without a serving process


def test_the_whole_way_without_a_server(shell: Shell, source: PostgresWorld, place: Path) -> None:
    """Each command works with --home alone: backup runs its own job, restore too."""
    added = shell.json("cluster", "add", "orders", "--dsn", source.dsn())
    assert shell.run("status")[0] == 9  # never backed up
    code, out, err = shell.run("backup", "orders", "--json", "--comment", "first")
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["Type"] for line in lines[:-1]} == {"Status"}
    made = lines[-1]
    assert (made["Type"], made["DBClusterId"], made["Comment"]) == ("Summary", added["DBClusterId"], "first")
    assert err == ""

    # Reads print the API's own answers
    assert [each["BackupId"] for each in shell.json("backups", "orders")["Items"]["Backup"]] == [made["BackupId"]]
    assert shell.json("show", made["BackupId"][:-2])["Backup"]["BackupId"] == made["BackupId"]
    assert [each["BackupId"] for each in shell.json("repo", "list")["Items"]["Backup"]] == [made["BackupId"]]
    # A new cluster by its source's name
    text = shell.ok("restore", "orders", "--to", "orders-copy")
    assert "orders-copy" in text
    copy = shell.json("call", "DescribeDBClusterEndpoints", "--DBClusterId", _id_of(shell, "orders-copy"))
    address = copy["Items"][0]["AddressItems"][0]
    dsn = f"host={address['IPAddress']} port={address['Port']} user={source.user} dbname=postgres"
    assert fingerprint(dsn) == fingerprint(source.dsn())

    # And away with everything
    code, _, err = shell.run("cluster", "remove", "orders-copy")
    assert code == 2 and "--yes" in err
    shell.ok("cluster", "remove", "orders-copy", "--yes")
    assert not list((shell.home / "clusters").glob("*/data"))
    shell.ok("delete", made["BackupId"], "--yes")
    assert shell.json("backups", "orders")["Items"]["Backup"] == []
    assert shell.json("repo", "stat")["StoredBytes"] < 10_000
    shell.ok("cluster", "remove", "orders", "--yes")
    assert source.pid()


def _id_of(shell: Shell, name: str) -> str:
    found = shell.json("cluster", "list")["Items"]["DBCluster"]
    return str(next(each["DBClusterId"] for each in found if each["DBClusterDescription"] == name))


def test_a_repository_that_opens_by_a_passphrase(place: Path, source: PostgresWorld) -> None:
    shell = Shell(place / "home")
    shell.ok("init", "--passphrase", ICECORE_PASSPHRASE="first words")
    assert not (shell.home / "keys" / "repository.key").exists()
    shell.ok("cluster", "add", "orders", "--dsn", source.dsn())
    shell.ok("backup", "orders")
    shell.ok("repo", "key", "passphrase", ICECORE_PASSPHRASE="other words")
    assert len(shell.json("repo", "list")["Items"]["Backup"]) == 1  # the home has the new one

    # Offline, only the new one opens
    bare = Shell(place / "nowhere")
    repository = str(shell.home / "repository")
    code, _, err = bare.run("repo", "list", "--repo", repository, ICECORE_PASSPHRASE="first words")
    assert code == 4, err
    assert bare.run("repo", "list", "--repo", repository)[0] == 4
    listed = bare.ok("repo", "list", "--repo", repository, "--json", ICECORE_PASSPHRASE="other words")
    assert len(json.loads(listed)["Items"]["Backup"]) == 1
    text = bare.ok(
        "restore", "orders", "--repo", repository, "--to", str(place / "out"), ICECORE_PASSPHRASE="other words"
    )
    assert (place / "out" / "PG_VERSION").read_text() == "15\n"
    assert "pg_ctl" in text


def test_the_printed_way_to_start_a_directory_works(shell: Shell, source: PostgresWorld, place: Path) -> None:
    shell.ok("cluster", "add", "orders", "--dsn", source.dsn())
    shell.ok("backup", "orders")
    out = place / "out"
    plan = shell.run("restore", "orders", "--to", f"{out}/", "--dry-run")
    assert plan[0] == 0 and "Plan" in plan[2] and not out.exists()
    text = shell.ok("restore", "orders", "--to", f"{out}/")
    command = text.splitlines()[-1].removeprefix("Next: ")
    port = world.free_port()
    with (out / "postgresql.auto.conf").open("a") as file:
        file.write(f"port = {port}\nunix_socket_directories = '{place}'\n")
    done = subprocess.run(
        ["sh", "-c", f"{command} -w"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60
    )
    assert done.returncode == 0, command
    dsn = f"host={place} port={port} user={source.user} dbname=postgres"
    try:
        assert fingerprint(dsn) == fingerprint(source.dsn())
    finally:
        world.end_servers_below(place)

    # What is there is never written over
    code, _, err = shell.run("restore", "orders", "--to", f"{out}/")
    assert code == 6 and "error:" in err


# ---------------------------------------------------------------- passwords


def test_a_password_is_kept_but_never_in_the_dsn(shell: Shell, guarded: PostgresWorld, place: Path) -> None:
    dsn = guarded.tcp_dsn(user="keeper")
    code, _, err = shell.run("cluster", "add", "crm", "--dsn", f"{dsn} password=x")
    assert code == 2 and "PGPASSWORD" in err
    assert shell.json("cluster", "list")["Items"]["DBCluster"] == []

    # Not reached: not registered
    code, _, err = shell.run("cluster", "add", "crm", "--dsn", dsn, PGPASSWORD="wrong", PGPASSFILE="/nowhere")
    assert code == 7, err
    assert shell.json("cluster", "list")["Items"]["DBCluster"] == []

    # From a passfile
    passfile = place / "pgpass"
    passfile.write_text("127.0.0.1:*:postgres:keeper:a secret\\: \\\\ and more\n")
    passfile.chmod(0o600)
    added = json.loads(shell.ok("cluster", "add", "crm", "--dsn", dsn, "--json", PGPASSFILE=str(passfile)))
    kept = shell.home / "secrets" / added["DBClusterId"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    passfile.unlink()
    assert shell.json("cluster", "check", "crm")["Local"]

    # It is in no other file of the home, and goes with the cluster
    secret = b"a secret: \\ and more"
    holders = [path for path in shell.home.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert holders == [kept]
    shell.ok("cluster", "remove", "crm", "--yes")
    assert not kept.exists()


# ---------------------------------------------------------------- with a serving process


def test_a_printed_sample_runs_as_printed(station: Station, source: PostgresWorld) -> None:
    cluster = station.add(source)
    keys = {
        "ALIBABA_CLOUD_ACCESS_KEY_ID": station.access_key_id,
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": station.access_key_secret,
    }
    words = ("call", "CreateBackup", "--DBClusterId", cluster, "--ClientToken", 'it\'s & "one" $TOKEN', "--print")
    answers = set()
    for language, run in (("curl", ["sh", "-c"]), ("python", [sys.executable, "-c"])):
        sample = station.icecore(*words, language)
        assert station.access_key_secret not in sample
        done = subprocess.run(
            [*run, sample], capture_output=True, text=True, env=os.environ | keys, timeout=60, check=True
        )
        answers.add(json.loads(done.stdout)["BackupJobId"])
    assert len(answers) == 1  # one token, one job
    station.wait(answers.pop())


def test_ctrl_c_stops_following_not_the_job(station: Station, source: PostgresWorld) -> None:
    """At a terminal: a progress line that is redrawn, then the detaching."""
    station.add(source)
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        [str(ICECORE), "--home", str(station.home), "backup", "orders"],
        stdin=inside,
        stdout=subprocess.PIPE,
        stderr=inside,
        start_new_session=True,
    ) as process:
        os.close(inside)
        shown = b""
        while b"\x1b[K" not in shown:
            shown += os.read(terminal, 4096)
        process.send_signal(signal.SIGINT)
        try:
            while piece := os.read(terminal, 4096):
                shown += piece
        except OSError:
            pass  # the other end is closed
        code = process.wait(30)
    os.close(terminal)
    job = station.call("DescribeJobs")["items"]["job"][0]
    if code == 130:  # else the backup was faster than the signal
        assert f"icecore watch {job['job_id']}".encode() in shown
    else:
        assert code == 0
    assert "is complete" in station.icecore("watch", job["job_id"])


def test_commands_start_in_time(station: Station, source: PostgresWorld) -> None:
    """0.3 s, the best of a few, on a machine that is busy with other tests."""
    station.add(source)
    best_s = 9.0
    for _ in range(5):
        began = time.monotonic()
        station.icecore("backups")
        best_s = min(best_s, time.monotonic() - began)
    assert best_s < 0.3


def test_a_killed_servers_note_does_not_mislead(station: Station, source: PostgresWorld) -> None:
    station.add(source)
    station.kill()
    assert (station.home / "run" / "endpoint.json").exists()
    assert "orders" in station.icecore("cluster", "list")


def test_a_certificate_for_another_name_does_not_lock_the_operator_out(place: Path) -> None:
    files = {"--tls-cert": place / "cert.pem", "--tls-key": place / "key.pem"}
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made += ["-subj", "/CN=backup.example.com", "-out", files["--tls-cert"], "-keyout", files["--tls-key"]]
    subprocess.run(made, check=True, capture_output=True)
    station = Station(place)
    try:
        station.start(*(str(word) for pair in files.items() for word in pair))
        assert station.endpoint.startswith("https://")
        assert "No clusters yet" in station.icecore("cluster", "list")
    finally:
        station.kill()


def test_keys_and_errors_over_the_wire(station: Station) -> None:
    shell = Shell(station.home)
    reader = shell.json("key", "create", "--role", "reader", "--description", "monitoring")
    as_reader = {
        "ALIBABA_CLOUD_ACCESS_KEY_ID": reader["KeyId"],
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": reader["KeySecret"],
    }
    shell.ok("cluster", "list", **as_reader)
    code, _, err = shell.run("key", "create", "--json", **as_reader)
    assert code == 4
    failure = json.loads(err)
    assert failure["Code"] == "Forbidden.RAM" and failure["ExitCode"] == 4
    assert len(failure["RequestId"]) == 36
    shell.ok("key", "revoke", reader["KeyId"], "--yes")
    assert shell.run("cluster", "list", **as_reader)[0] == 4
    code, _, err = shell.run("key", "revoke", station.access_key_id, "--yes")
    assert code == 6 and "last admin key" in err


def test_watch_reports_a_failed_job_as_it_failed(station: Station, place: Path) -> None:
    with PostgresWorld("15", place / "short") as server:
        cluster = station.add(server)
        until(lambda: station.call("DescribeDBClusters")["items"]["db_cluster"][0]["db_cluster_status"] == "Running")
        station.kill()
        # Accepted while nobody works; then the server goes
        shell = Shell(station.home)
        job = shell.json("backup", "orders", "--no-wait")["BackupJobId"]
    code, _, err = shell.run("watch", job)
    assert code == 7, err
    assert "error:" in err and "hint:" in err
    assert shell.json("call", "DescribeBackupTasks", "--DBClusterId", cluster)["Items"]["BackupJob"]
