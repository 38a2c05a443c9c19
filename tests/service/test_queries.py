"""The lists that pages show: what they cost with much history, that markers lose and repeat nothing, who sees what."""

from __future__ import annotations

import contextlib
import itertools
import string
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icecore import app as application
from icecore import errors
from icecore.api import contract
from icecore.api.server import Caller
from icecore.catalog import clusters, paging, tables

BEGAN_AT = 1_790_000_000
KINDS = ("backup", "restore", "clone", "delete-backup", "delete-cluster")
STATES = ("queued", "running", "succeeded", "failed", "cancelled")
MANY, FEW = 20_000, 100


def initialised(home: Path) -> application.App:
    application.initialise(home, repository=None, encrypted=False, passphrase=None, listen=None)
    return application.open_app(home)


def crowd(app: application.App, count: int) -> None:
    """Three clusters with ``count`` backups, jobs and calls in all; restores and failures are rare."""
    numbers = range(count)
    with app.catalog.write() as tx:
        tx.execute(
            sa.insert(tables.cluster),
            [
                {"id": f"pc-{n}", "name": f"c{n}", "engine": "postgresql", "dsn": "", "origin": "registered",
                 "status": "Running", "created_at": n} for n in range(3)
            ],
        )  # fmt: skip
        tx.execute(
            sa.insert(tables.backup),
            [
                {"id": str(10**12 + n), "cluster_id": f"pc-{n % 3}", "job_uuid": str(n),
                 "mode": "Manual" if n < 5 else "Automated", "status": "Failed" if n % 97 == 50 else "Success",
                 "accepted_at": BEGAN_AT + n // 4, "consistent_at": BEGAN_AT + n} for n in numbers
            ],
        )  # fmt: skip
        tx.execute(
            sa.insert(tables.job),
            [
                {"id": str(10**12 + n), "kind": "restore" if n % 500 == 9 else "backup", "cluster_id": f"pc-{n % 3}",
                 "backup_id": str(10**12 + n), "state": "failed" if n % 97 == 50 else "succeeded",
                 "phase": "Finished", "queued_at": BEGAN_AT + n // 4} for n in numbers
            ],
        )  # fmt: skip
    with app.calls._engine.begin() as tx:
        tx.execute(
            sa.insert(sa.table("call", *map(sa.column, (*CALL, "mutates")))),
            [
                {**CALL, "request_id": f"R-{n}", "called_at": BEGAN_AT + n, "mutates": n % 500 == 9,
                 "access_key_id": "rare" if n % 700 == 11 else "key",
                 "action": "CreateBackup" if n % 500 == 9 else "DescribeBackups"} for n in numbers
            ],
        )  # fmt: skip


CALL: dict[str, Any] = {"request_id": "", "action": "", "access_key_id": "", "code": "OK", "status": 200,
                        "called_at": 0, "took_ms": 3}  # fmt: skip


def call(app: application.App, action: str, caller: Caller | None = None, **wire: str) -> dict[str, Any]:
    bound = contract.bind(action, list(wire.items()))
    result = app.run(bound, caller)
    contract.render(action, result, "R")  # whatever is given can be said on the wire
    return result


def listed(result: dict[str, Any]) -> list[dict[str, Any]]:
    (rows,) = result["items"].values()
    return list(rows)


def walk(app: application.App, action: str, between: Callable[[], None] = lambda: None, **wire: str) -> list[Any]:
    """All rows, page by page; ``between`` is called after each page."""
    found, marker = [], ""
    while True:
        page = call(app, action, **wire, **({"Marker": marker} if marker else {}))
        found += listed(page)
        marker = page["next_marker"] or ""
        if not marker:
            return found
        between()


# ---------------------------------------------------------------- what a page costs


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[application.App, application.App]]:
    """One home with little history, one with much."""
    apps = []
    for count in (FEW, MANY):
        app = initialised(tmp_path_factory.mktemp(f"crowd{count}") / "home")
        crowd(app, count)
        apps.append(app)
    yield apps[0], apps[1]
    for app in apps:
        app.close()


@contextlib.contextmanager
def watched(app: application.App) -> Iterator[tuple[list[int], list[tuple[sa.Engine, str, Any]]]]:
    """Counts the steps of SQLite's machine and collects the statements."""
    steps, statements = [0], list[tuple[sa.Engine, str, Any]]()

    def count() -> int:
        steps[0] += 1
        return 0

    listeners: list[tuple[sa.Engine, str, Any]] = []
    for engine in (app.catalog._brief, app.calls._engine):

        def checkout(connection: Any, *_: Any) -> None:
            connection.set_progress_handler(count, 1)

        def checkin(connection: Any, *_: Any) -> None:
            connection.set_progress_handler(None, 1)

        def seen(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any, engine: sa.Engine = engine) -> None:
            statements.append((engine, statement, values))

        listeners += [(engine, "checkout", checkout), (engine, "checkin", checkin)]
        listeners += [(engine, "before_cursor_execute", seen)]
    for engine, event, listener in listeners:
        sa.event.listen(engine, event, listener)
    try:
        yield steps, statements
    finally:
        for engine, event, listener in listeners:
            sa.event.remove(engine, event, listener)


def every_way() -> Iterator[tuple[str, dict[str, str]]]:
    """Each list with each combination of its filters, the first page and one that follows."""
    filters = {
        "DescribeBackupHistory": ("backup", {"DBClusterId": "pc-1"}),
        "DescribeJobs": ("job", {"DBClusterId": "pc-0", "JobKind": "restore", "JobState": "failed"}),
        "DescribeCalls": ("call", {"CallAccessKeyId": "rare", "CallAction": "CreateBackup", "OnlyChanges": "true"}),
    }
    for action, (kind, possible) in filters.items():
        key: tuple[object, ...] = (60,) if kind == "call" else (BEGAN_AT + 15, 10**12 + 61)
        for count in range(len(possible) + 1):
            for chosen in itertools.combinations(possible.items(), count):
                for marker in ({}, {"Marker": paging.write_marker(kind, *key)}):
                    yield action, {"MaxResults": "10", **dict(chosen), **marker}
    yield "DescribeCalls", {"CallRequestId": "R-17"}
    yield "DescribeJobs", {"JobId": str(10**12 + 3), "MaxResults": "10"}
    yield "DescribeOverview", {"MaxResults": "2"}
    yield "DescribeOverview", {"MaxResults": "2", "Marker": paging.write_marker("cluster", "pc-0")}
    yield "DescribeOverview", {"DBClusterId": "pc-1"}
    yield "DescribeClusterHealth", {"DBClusterId": "pc-1"}
    yield "DescribeRecoveryWindows", {"DBClusterId": "pc-1"}
    yield "DescribeAccessKeys", {}


@pytest.mark.parametrize(
    ("action", "wire"), list(every_way()), ids=lambda value: " ".join(value) * isinstance(value, dict)
)
def test_no_page_costs_more_with_much_history(crowded, action: str, wire: dict[str, str]) -> None:
    costs = []
    for app in crowded:
        call(app, action, **wire)  # the statement is compiled, the schema read
        with watched(app) as (steps, statements):
            call(app, action, **wire)
        costs.append(steps[0])
        for engine, statement, values in statements:
            if not statement.startswith("SELECT"):
                continue
            with engine.connect() as connection:
                plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
            # a scan is one along an index (or by number), that a LIMIT ends
            scans = [line for line in plan if line.startswith("SCAN") and "USING" not in line]
            assert set(scans) <= {"SCAN call", "SCAN key_use", "SCAN access_key", "SCAN CONSTANT ROW"}, plan
            assert not scans or "LIMIT" in statement or action == "DescribeAccessKeys", plan
            assert not [line for line in plan if "TEMP B-TREE" in line and "access_key" not in statement], plan
    few, many = costs
    assert many <= few * 1.5 + 400, (few, many)  # full pages instead of a half-empty one, deeper trees; not 200 times


def test_the_cost_would_show(crowded) -> None:
    """The same measure finds the counted list of jobs, whose cost does grow."""
    costs = []
    for app in crowded:
        with watched(app) as (steps, _):
            call(app, "DescribeJobs", JobKind="backup")
        costs.append(steps[0])
    assert costs[1] > costs[0] * 20


# ---------------------------------------------------------------- markers


def test_pages_give_every_row_once_in_order(crowded) -> None:
    app = crowded[0]
    backups = [row["backup_id"] for row in walk(app, "DescribeBackupHistory", MaxResults="7")]
    assert backups == [str(10**12 + n) for n in reversed(range(FEW))]
    mine = [row["backup_id"] for row in walk(app, "DescribeBackupHistory", MaxResults="7", DBClusterId="pc-2")]
    assert mine == [each for each in backups if (int(each) - 10**12) % 3 == 2]
    jobs = [row["job_id"] for row in walk(app, "DescribeJobs", MaxResults="9")]
    assert jobs == backups
    counted = call(app, "DescribeJobs", PageSize="100")
    assert [row["job_id"] for row in listed(counted)] == jobs and counted["total_record_count"] == FEW
    restores = [row["job_id"] for row in walk(app, "DescribeJobs", JobKind="restore", MaxResults="1")]
    assert restores == [str(10**12 + 9)]
    calls = [row["call_request_id"] for row in walk(app, "DescribeCalls", MaxResults="11")]
    assert calls == [f"R-{n}" for n in reversed(range(FEW))]
    named = [row["db_cluster_id"] for row in walk(app, "DescribeOverview", MaxResults="1")]
    assert named == ["pc-0", "pc-1", "pc-2"]
    # a page that ends with the list has no successor
    assert call(app, "DescribeBackupHistory", MaxResults="100")["next_marker"] is None


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    old=st.lists(st.integers(0, 5), max_size=12),
    new=st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=12),
    size=st.integers(1, 5),
)
def test_walking_shows_each_old_row_once_while_rows_are_added(desk, old, new, size) -> None:
    """Rows with equal times, rows that come in between, rows that come before: none hides or repeats an old one."""
    numbers = itertools.count(10**12)

    def add(after_s: int) -> str:
        number = str(next(numbers))
        with desk.app.catalog.write() as tx:
            at = BEGAN_AT + after_s
            mine = {"id": number, "cluster_id": desk.cluster_id}
            tx.execute(sa.insert(tables.backup).values(**mine, job_uuid=number, mode="Manual", status="Success",
                                                       accepted_at=at))  # fmt: skip
            tx.execute(sa.insert(tables.job).values(**mine, kind="backup", state="succeeded", phase="Finished",
                                                    queued_at=at))  # fmt: skip
        desk.app.calls.note(**{**CALL, "request_id": number})
        return number

    with desk.app.catalog.write() as tx:
        tx.execute(sa.delete(tables.backup))
        tx.execute(sa.delete(tables.job))
    with desk.app.calls._engine.begin() as tx:
        tx.exec_driver_sql("DELETE FROM call")
    before = sorted(add(after_s) for after_s in old)
    coming = iter(new)

    def more() -> None:
        for after_s in next(coming, ()):
            add(after_s)

    wire = {"MaxResults": str(size)}
    for action, name in (
        ("DescribeBackupHistory", "backup_id"),
        ("DescribeJobs", "job_id"),
        ("DescribeCalls", "call_request_id"),
    ):
        found = [row[name] for row in walk(desk.app, action, more, **wire)]
        assert len(found) == len(set(found))
        assert [each for each in sorted(found) if each in before] == before
        before = sorted(row[name] for row in walk(desk.app, action, **wire))  # what came meanwhile is old now


MARKERS = {
    "DescribeBackupHistory": "backup",
    "DescribeJobs": "job",
    "DescribeCalls": "call",
    "DescribeOverview": "cluster",
}


@pytest.mark.parametrize("action", MARKERS)
def test_a_marker_that_was_not_given_out_is_refused_by_name(desk, action: str) -> None:
    kind = MARKERS[action]
    good = paging.write_marker(kind, *{"cluster": [desk.cluster_id], "call": [5]}.get(kind, [BEGAN_AT, 5]))
    call(desk.app, action, Marker=good)
    others = [paging.write_marker(other, BEGAN_AT, 5) for other in ("backup", "job", "call") if other != kind]
    others += [
        paging.write_marker(kind, *key) for key in ((), ("",), (1, 2, 3), ("1 OR 1=1", 5), (-1, "5"), ("%", "_"))
    ]
    others += ["a", good[:-1], good + "A", "AAAA", "_" * 128, "x" * 129, good + "=", "'; DROP TABLE job; --", "\u0661"]
    others += [paging.write_marker("cluster", "pc-none")] if kind == "cluster" else []
    for marker in others:
        with pytest.raises(errors.InvalidParameter) as refused:
            call(desk.app, action, Marker=marker)
        assert refused.value.wire_code() == "InvalidMarker.Malformed", marker


@given(st.text(string.printable, max_size=40), st.sampled_from(["backup", "job", "call", "cluster"]))
def test_reading_a_marker_gives_its_key_or_refuses(text: str, kind: str) -> None:
    try:
        key = paging.read_marker(kind, text)
    except ValueError:
        return
    assert paging.write_marker(kind, *key) == text


# ---------------------------------------------------------------- overview, history, health


def insert(desk, table: sa.Table, **values: Any) -> None:
    with desk.app.catalog.write() as tx:
        tx.execute(sa.insert(table).values(**values))


def job(desk, number: int, state: str, kind: str = "backup", code: str = "") -> None:
    insert(desk, tables.job, id=str(number), kind=kind, cluster_id=desk.cluster_id, backup_id=str(number), state=state,
           phase="Finished", queued_at=BEGAN_AT + number, error_code=code)  # fmt: skip


def backup(desk, number: int, status: str = "Success", mode: str = "Automated") -> None:
    insert(desk, tables.backup, id=str(number), cluster_id=desk.cluster_id, job_uuid=f"u{number}", mode=mode,
           status=status, accepted_at=BEGAN_AT + number, consistent_at=BEGAN_AT + number)  # fmt: skip


def overview(desk) -> dict[str, Any]:
    (row,) = listed(call(desk.app, "DescribeOverview"))
    return row


def test_overview_tells_the_last_backup_the_quota_and_the_last_failure(desk) -> None:
    first = overview(desk)
    assert first["lose_now_seconds"] is None and first["manual_backups"] == 0 and first["last_failure_code"] is None
    assert first["size_bytes"] == 1 << 20
    backup(desk, 1)
    backup(desk, 2, mode="Manual")
    backup(desk, 3, status="Failed", mode="Manual")
    backup(desk, 4, status="Running", mode="Manual")
    backup(desk, 5, status="Deleting", mode="Manual")
    shown = overview(desk)
    assert shown["last_backup_id"] == "2" and shown["last_backup_time"] == BEGAN_AT + 2
    assert shown["manual_backups"] == 2  # what counts against the limit: finished and being made
    # the newest backup job that ended decides; other kinds and cancelled ones do not
    job(desk, 1, "succeeded")
    job(desk, 3, "failed", code="StorageFull")
    job(desk, 6, "cancelled", code="JobCancelled")
    job(desk, 7, "failed", kind="restore", code="EngineFailed")
    job(desk, 4, "running")
    shown = overview(desk)
    assert (shown["last_failure_job_id"], shown["last_failure_code"]) == ("3", "StorageFull")
    assert shown["running_job_id"] == "4"
    job(desk, 8, "succeeded")
    assert overview(desk)["last_failure_job_id"] is None


def test_overview_and_markers_survive_hostile_names(desk) -> None:
    names = ['<script>alert("1")</script>', "'; DROP TABLE cluster; --", "ünï:çödé", "%", "a" * 128]
    for name in names:
        clusters.register(desk.app.catalog, name=name, engine="postgresql", dsn="host=/x", region_id="r")
    rows = walk(desk.app, "DescribeOverview", MaxResults="1")
    assert [row["db_cluster_name"] for row in rows] == sorted([*names, "orders"])
    (row,) = [row for row in rows if row["db_cluster_name"] == names[0]]
    assert call(desk.app, "DescribeClusterHealth", DBClusterId=row["db_cluster_id"])["db_cluster_name"] == names[0]


def test_history_tells_what_is_being_made_and_what_failed(desk) -> None:
    from icecore.catalog import jobs
    from icecore.model import Phase

    made = [desk.create() for _ in range(3)]
    backup(desk, 1)  # taken over from the repository: no job made it here
    backup(desk, 2, status="Deleting")
    held = jobs.claim(desk.app.catalog, made[0], "worker", lambda _: False)
    assert held is not None
    jobs.progress(desk.app.catalog, held, phase=Phase.UPLOADING, done=50, total=100, new=10)
    desk.call("CancelJob", JobId=made[2])
    shown = {row["backup_id"]: row for row in listed(call(desk.app, "DescribeBackupHistory"))}
    assert set(shown) == {*made, "1"}
    running, pending, cancelled, adopted = (shown[each] for each in (*made, "1"))
    assert (running["backup_status"], running["job_state"], running["phase"]) == ("Running", "running", "Uploading")
    assert 5 < running["process"] < 95 and running["db_cluster_name"] == "orders"
    assert (pending["backup_status"], pending["job_state"], pending["process"]) == ("Pending", "queued", 0)
    assert (cancelled["backup_status"], cancelled["error_code"], cancelled["job_state"]) == (
        "Failed",
        "JobCancelled",
        None,
    )
    assert (adopted["backup_status"], adopted["backup_job_id"], adopted["is_avail"]) == ("Success", None, 1)
    with pytest.raises(errors.ClusterNotFound):
        call(desk.app, "DescribeBackupHistory", DBClusterId="pc-none")


def test_health_shows_the_findings_of_the_last_look(desk) -> None:
    from icecore.engines import Finding, Probe
    from icecore.keeper import observations

    desk.call("RegisterDBCluster", DBClusterDescription="new", Engine="postgresql", ConnectionString="host=/x")
    new = clusters.named(desk.app.catalog, "new").id
    unseen = call(desk.app, "DescribeClusterHealth", DBClusterId=new)
    assert (unseen["checked_time"], unseen["local"], unseen["findings"]) == (None, None, [])
    assert unseen["status_reason"] == "not looked at yet"

    nasty = 'role "<b>x</b>" may not; -- run \u2028 it'
    found = (Finding("ok", "fine"), Finding("refusal", nasty, "GRANT 'it';"), Finding("warning", "slow"))
    probe = Probe("postgresql", "15.18", "15", "7", 5 << 30, False, "/data/<i>", found)
    facts = observations(probe) | {"host": "::1", "port": 5433}
    clusters.observed(desk.app.catalog, new, running=True, facts=facts)
    shown = call(desk.app, "DescribeClusterHealth", DBClusterId=new)
    assert [(each["severity"], each["message"], each["hint"]) for each in shown["findings"]] == [
        ("refusal", nasty, "GRANT 'it';"),
        ("warning", "slow", None),
        ("note", "fine", None),
    ]
    assert (shown["address"], shown["local"], shown["data_directory"]) == ("[::1]:5433", False, "/data/<i>")
    assert (shown["engine_version"], shown["size_bytes"], shown["db_cluster_status"]) == ("15.18", 5 << 30, "Running")

    # one that cannot be reached: the reason is the finding, the rest stays as it was last seen
    clusters.observed(desk.app.catalog, new, running=False, reason="refused", hint="start it")
    shown = call(desk.app, "DescribeClusterHealth", DBClusterId=new)
    assert shown["findings"] == [{"severity": "refusal", "message": "refused", "hint": "start it"}]
    assert (shown["status_reason"], shown["data_directory"]) == ("refused", "/data/<i>")


def test_a_look_at_a_server_that_is_not_there_leaves_a_finding(desk) -> None:
    with pytest.raises(errors.EngineUnreachable):
        desk.app.look_at(desk.cluster_id)
    shown = call(desk.app, "DescribeClusterHealth", DBClusterId=desk.cluster_id)
    (finding,) = shown["findings"]
    assert finding["severity"] == "refusal" and "/nowhere" in finding["message"] and finding["hint"]


# ---------------------------------------------------------------- the repository's growth


def test_the_repository_is_noted_once_a_day_and_its_growth_told(desk, monkeypatch) -> None:
    day_s, today = 86_400, 20_650 * 86_400
    clock, app = [today], desk.app
    monkeypatch.setattr(application.time, "time", lambda: clock[0])
    monkeypatch.setattr("icecore.api.operations.overview.now", lambda: clock[0])
    sizes = dict.fromkeys(("damaged_count", "object_count", "backup_count"), 0) | {"clusters": [], "free_bytes": 1000}

    def look(at: int, stored_bytes: int) -> dict[str, Any]:
        clock[0], app._facts_until = at, 0.0
        facts = {"stored_bytes": stored_bytes, "logical_bytes": 7}
        monkeypatch.setattr(app, "_read_repository", lambda: sizes | facts)
        return call(app, "DescribeRepository")

    look(today, 100)
    shown = look(today + day_s - 1, 110)  # the day's last look counts
    assert shown["history"] == [{"day": "2026-07-16", "stored_bytes": 110, "logical_bytes": 7}]
    assert shown["growth_bytes_per_day"] is None and shown["full_time"] is None
    for n in range(1, 100):
        shown = look(today + n * day_s + day_s - 1, 110 + 10 * n)
    assert len(shown["history"]) == 90 and shown["history"][-1]["day"] == "2026-10-23"
    assert shown["growth_bytes_per_day"] == 10
    assert shown["full_time"] == clock[0] + 100 * day_s  # 1000 bytes free
    # it shrinks: no day on which it is full
    for n in range(100, 131):
        shown = look(today + n * day_s, 5000 - 20 * n)
    assert shown["growth_bytes_per_day"] == -20 and shown["full_time"] is None


def test_the_repository_is_shown_when_the_catalog_cannot_be_written(desk, monkeypatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise errors.Busy()

    monkeypatch.setattr("icecore.catalog.queries.note_repository_day", refuse)
    assert call(desk.app, "DescribeRepository")["free_bytes"] > 0


def test_nobody_waits_for_somebody_else_s_look_at_the_repository(desk, monkeypatch) -> None:
    """The first answer must be read; after that, who comes during a long reading gets what was known."""
    first, app = call(desk.app, "DescribeRepository"), desk.app
    reading, going_on = threading.Event(), threading.Event()

    def slow() -> dict[str, Any]:
        reading.set()
        assert going_on.wait(20)
        return {**app._facts, "object_count": 12345}

    monkeypatch.setattr(app, "_read_repository", slow)
    app._facts_until = 0.0
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(call, app, "DescribeRepository")
        assert reading.wait(20)
        assert call(app, "DescribeRepository")["object_count"] == first["object_count"]
        going_on.set()
        assert later.result(20)["object_count"] == 12345
