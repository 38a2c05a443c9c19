"""Overview, cluster and backup: pages of a real server, pressed as a person presses them; what a worker does is done by
the catalog's own functions."""

from __future__ import annotations

import html
import re
import time
import uuid
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
import sqlalchemy as sa
from room import GIB, HOSTILE, House, Room, enter, plain, reads, register, serving, signed_in
from visitor import visiting

from conftest import Desk
from icecore import errors
from icecore.catalog import clusters, jobs, proofs, tables
from icecore.console import overview
from icecore.evidence import Evidence, Examination, Outcome, ProofKind
from icecore.model import MANUAL_BACKUP_LIMIT, Phase


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One home and server for all: a test has its own cluster and people in it."""
    with serving(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest.fixture
def room(house: House) -> Room:
    return enter(house)


# ---------------------------------------------------------------- overview


def test_an_empty_home_says_what_to_do_next(desk: Desk) -> None:
    with desk.app.catalog.write() as tx:
        tx.execute(sa.delete(tables.cluster))
    with visiting(desk.app) as port:
        visitor = signed_in(desk.app, port, "admin")
        shown = reads(visitor.get("/console"))
        assert "No cluster is protected yet" in shown
        assert "icecore cluster add" in shown
        assert "icecore backup" in shown
        assert "There is nothing to restore yet" in reads(visitor.get("/console/restore"))


def test_overview_names_at_most_three_concerns_and_leads_to_their_mending(desk: Desk) -> None:
    app = desk.app
    ill = {name: register(app, name) for name in ("unreachable", "failing", "new", "newer")}
    for name in ("failing", "new", "newer"):
        clusters.observed(app.catalog, ill[name], running=True, facts={"size_bytes": GIB})
    clusters.observed(app.catalog, ill["unreachable"], running=False, reason="connection refused", hint="Start it.")
    with visiting(app) as port:
        visitor = signed_in(app, port, "admin")
        room = Room(Desk(desk.home, app, ill["failing"]), "failing", visitor, visitor)
        failed = room.fail()
        Room(desk, "orders", visitor, visitor).backup(at=int(time.time()) - 7200)
        page = visitor.get("/console")
        shown = reads(page)
        notice = re.search(r'<div class="notice warn">.*?</div>', page.text, re.DOTALL)
        assert notice and len(re.findall("<p><strong>", notice[0])) == overview.CONCERNS_AT_MOST
        assert "unreachable : not reachable: connection refused. See what was found" in plain(notice[0])
        assert f'href="/console/clusters/{ill["unreachable"]}?tab=health"' in notice[0]
        assert "failing : the newest backup failed with StorageFull" in plain(notice[0])
        assert f'href="/console/tasks/{failed}"' in notice[0]
        # the worst first, not the first by name
        assert [plain(each) for each in re.findall(r"<p><strong>(.*?)</strong>", notice[0])][:2] == [
            "unreachable",
            "failing",
        ]
        assert "And 1 more cluster on this page." in plain(notice[0])
        # the healthy one: what it would lose, and its moments
        row = re.search(
            rf'<tr>\s*<th scope="row"><a href="/console/clusters/{desk.cluster_id}">.*?</tr>', page.text, re.S
        )
        assert row and "2 h" in plain(row[0])
        assert 'aria-label="1 moment, the newest 2 h ago"' in row[0]
        assert shown.count("everything") >= 3


def test_fifty_clusters_fit_a_page_and_the_others_follow(desk: Desk) -> None:
    made = 57
    for number in range(made):
        cluster_id = register(desk.app, f"tenant-{number:02d}-with-a-name-that-is-longer-than-most")
        clusters.observed(desk.app.catalog, cluster_id, running=True, facts={"size_bytes": GIB})
    with desk.app.catalog.write() as tx:
        ids = tx.execute(sa.select(tables.cluster.c.id)).scalars().all()
        now = int(time.time())
        rows = [
            {
                "id": str(10_000 + 12 * place + number),
                "cluster_id": cluster_id,
                "job_uuid": str(uuid.uuid4()),
                "mode": "Automated",
                "status": "Success",
                "accepted_at": now - 3600 * number - place,
                "consistent_at": now - 3600 * number - place,
                "size_bytes": GIB,
                "facts": "{}",
            }
            for place, cluster_id in enumerate(ids)
            for number in range(12)
        ]
        tx.execute(sa.insert(tables.backup), rows)
    with visiting(desk.app) as port:
        visitor = signed_in(desk.app, port, "reader")
        first = visitor.get("/console")
        reads(first)
        further = re.search(r'href="(/console\?after=[^"]+)" rel="next"', first.text)
        assert further
        second = visitor.get(html.unescape(further[1]))
        reads(second)
        shown = [
            re.findall(r'<th scope="row"><a href="/console/clusters/([^"]+)"', page.text) for page in (first, second)
        ]
        assert len(shown[0]) == overview.CLUSTERS_A_PAGE
        assert sorted(shown[0] + shown[1]) == sorted(ids)
        assert first.text.count('class="chart strip"') == overview.CLUSTERS_A_PAGE
        assert visitor.get("/console?after=rubbish").status == 400


# ---------------------------------------------------------------- a cluster


def test_the_way_from_no_backup_to_the_refused_fourth(room: Room) -> None:
    shown = reads(room.admin.get(room.here))
    assert "Everything would be lost: there is no backup yet" in shown
    assert f"icecore backup {room.desk.cluster_id}" in shown
    assert f"0 of {MANUAL_BACKUP_LIMIT} manual backups exist" in shown

    # pressed twice, the button of one page makes one backup
    form = room.form(room.here, "CreateBackup") | {"p.comment": f"before the upgrade {HOSTILE}"}
    answers = [room.admin.post("/console/act", form) for _ in range(2)]
    assert {answer.status for answer in answers} == {303}
    assert len({answer.location for answer in answers}) == 1
    assert room.jobs() == 1
    job_id = answers[0].location.rsplit("/", 1)[1]

    # while it is made: phase, percent, and the running task beside
    held = room.claim(job_id)
    jobs.progress(room.desk.app.catalog, held, phase=Phase.UPLOADING, done=GIB, total=4 * GIB, new=GIB)
    page = room.admin.get(room.here)
    shown = reads(page)
    assert "Uploading 27 %" in shown
    assert f'data-live="/console/tasks/events?cluster={room.desk.cluster_id}"' in page.text
    assert '<noscript><meta http-equiv="refresh"' in page.text

    # made: a moment on the time line, a row with its sizes
    with room.desk.app.catalog.write() as tx:
        tx.execute(sa.update(tables.job).where(tables.job.c.id == job_id).values(executor_id=""))
    room.finish(job_id, at=int(time.time()) - 5 * 60)
    page = room.admin.get(room.here)
    shown = reads(page)
    assert "The newest restorable moment is 5 min ago" in shown
    assert f'<a href="/console/backups/{job_id}" aria-label="Backup {job_id}, 5 min ago' in page.text
    assert "before the upgrade <script>alert(1)</script>" in shown
    assert "<script>alert" not in page.text
    assert "http-equiv" not in page.text

    # three exist: said before the fourth is refused, and the refusal leads on
    room.backup()
    room.backup()
    assert "The next one will be refused: delete one of them first." in reads(room.admin.get(room.here))
    refused = room.press(room.here, "CreateBackup")
    assert "Exceeding the daily backup times" in reads(refused, 403)
    assert re.search(r'href="/errors/BackupTimesExceeded\?RequestId=[0-9A-F-]+"', refused.text)
    assert room.jobs() == 3


def test_backups_of_a_cluster_are_listed_page_by_page(room: Room) -> None:
    now = int(time.time())
    with room.desk.app.catalog.write() as tx:
        rows = [
            {
                "id": f"{uuid.uuid4().int % 10**15}",
                "cluster_id": room.desk.cluster_id,
                "job_uuid": str(uuid.uuid4()),
                "mode": "Automated",
                "status": "Success",
                "accepted_at": now - 3600 * number,
                "consistent_at": now - 3600 * number,
                "size_bytes": GIB,
                "comment": "x" * 256,
                "facts": "{}",
            }
            for number in range(70)
        ]
        tx.execute(sa.insert(tables.backup), rows)
    seen: list[str] = []
    path = room.here
    for count in (30, 30, 10):
        page = room.admin.get(path)
        reads(page)
        ids = re.findall(r'<th scope="row"><a href="/console/backups/(\d+)"', page.text)
        assert len(ids) == count
        # the picture shows what the page lists; only with the newest of all it can say what would be lost
        assert len(re.findall(r'<svg x="[\d.]+%" class="tick">', page.text)) == count
        assert ('class="risk"' in page.text) == (path == room.here)
        seen += ids
        further = re.search(r'href="([^"]+)" rel="next"', page.text)
        path = html.unescape(further[1]) if further else ""
    assert path == ""
    assert seen == [row["id"] for row in rows]
    assert room.admin.get(f"{room.here}?after=rubbish").status == 400


def test_health_tells_each_finding_with_its_fix(room: Room) -> None:
    catalog, cluster_id = room.desk.app.catalog, room.desk.cluster_id
    path = f"{room.here}?tab=health"
    assert "Nothing stands in the way of a backup" in reads(room.admin.get(path))
    clusters.observed(catalog, cluster_id, running=False, reason="connection refused", hint="Start the server.")
    shown = reads(room.admin.get(path))
    assert "refusal connection refused Start the server." in shown
    assert "a backup asked for now is refused" in shown
    assert "None" not in shown
    assert reads(room.press(room.here, "CreateBackup"), 403)


def test_the_pace_of_a_cluster_is_set_on_its_page(room: Room) -> None:
    assert "A backup reads as fast as it can (the home's setting)" in reads(room.admin.get(room.here))
    done = room.press(room.here, "ModifyDBClusterPace", **{"p.max_rate": "64MiB", "p.background": "on"})
    assert (done.status, done.location) == (303, f"{room.here}#pace")
    page = room.admin.get(room.here)
    assert "A backup reads at most 64.0 MiB/s (set for this cluster) , and its threads get core" in reads(page)
    assert '<option value="on" selected>' in page.text and 'value="67108864"' in page.text
    assert "64.0 MiB/s" in reads(room.reader.get(room.here))


def test_a_policy_is_looked_at_before_it_is_set(room: Room) -> None:
    backup_id = room.backup()
    tab = f"{room.here}?tab=policy"
    assert "There is no policy" in reads(room.admin.get(tab))
    assert not [form for form in room.admin.get(tab).forms() if form.get("Action") == "ModifyBackupPolicy"]
    look = (
        f"{tab}&p.preferred_backup_time=16:00Z-17:00Z&p.backup_frequency=2/24H&p.data_level1_backup_retention_period=5"
    )
    page = room.admin.get(look)
    assert "With this policy: 0 backups would go, 1 backup would stay" in reads(page)
    assert "made by a person" in reads(page) and "There is no policy" in reads(page)  # nothing is set by looking
    done = room.press(look, "ModifyBackupPolicy")
    assert (done.status, done.location) == (303, tab)
    page = room.admin.get(tab)
    assert "The next automatic backup begins" in reads(page) and '<option value="2/24H" selected>' in page.text
    assert '<option value="16:00Z-17:00Z" selected>' in page.text and 'value="5"' in page.text
    wrong = room.admin.get(f"{tab}&p.data_level1_backup_retention_period=1")
    assert "DataLevel1BackupRetentionPeriod is not valid" in reads(wrong)
    assert room.press(tab, "DeleteBackupPolicy").location == tab
    assert "There is no policy" in reads(room.admin.get(tab))

    there = f"/console/backups/{backup_id}"
    assert room.press(there, "HoldBackup", **{"p.reason": "audit <b>"}).location == there
    assert "held audit <b>" in reads(room.admin.get(there))
    confirm = room.admin.get(
        f"/console/confirm?Action=DeleteBackup&p.db_cluster_id={room.desk.cluster_id}&p.backup_id={backup_id}"
    )
    assert confirm.status == 200
    assert room.press(there, "ReleaseBackup").location == there
    assert "Hold this backup" in reads(room.admin.get(there)) and "Hold this backup" not in reads(
        room.reader.get(there)
    )
    assert {form[":action"] for form in room.reader.get(look).forms()} <= {"/console/sign-out"}


def test_a_reader_sees_everything_and_changes_nothing(room: Room) -> None:
    backup_id = room.backup()
    paths = (
        "/console",
        room.here,
        f"{room.here}?tab=health",
        f"/console/backups/{backup_id}",
        f"/console/restore?cluster={room.desk.cluster_id}",
    )
    for path in paths:
        page = room.reader.get(path)
        assert page.status == 200
        assert {form[":action"] for form in page.forms()} <= {"/console/sign-out", "/console/restore"}, path
        assert "/console/confirm" not in page.text
    room.form(room.here, "CreateBackup")
    for action, fields in (
        ("CreateBackup", {"p.db_cluster_id": room.desk.cluster_id}),
        ("DeleteBackup", {"p.db_cluster_id": room.desk.cluster_id, "p.backup_id": backup_id}),
        ("ModifyDBClusterPace", {"p.db_cluster_id": room.desk.cluster_id, "p.max_rate": "1"}),
    ):
        assert room.reader.post("/console/act", {"Action": action, **fields}).status == 403
    assert room.jobs() == 1


def test_what_is_not_there_is_a_page_that_says_so(room: Room) -> None:
    backup_id = room.backup()
    for path in (
        "/console/clusters/pc-nothing",
        "/console/clusters/a%20b%3Cscript%3E",
        "/console/clusters/" + "x" * 200,
        "/console/clusters/..%2f..%2fetc",
        "/console/backups/4",
        "/console/backups/abc",
        f"/console/backups/{backup_id[:-1]}",
    ):
        page = room.admin.get(path)
        assert "There is no such page" in reads(page, 404)
        assert "<script>" not in page.text.replace('<script src="', "")
    assert room.admin.get(f"/console/restore?cluster=pc-nothing&backup={backup_id}").status in (400, 404)


# ---------------------------------------------------------------- a backup


def test_a_backup_shows_its_facts_and_the_way_back_without_this_server(room: Room) -> None:
    before, backup_id = room.backup(at=int(time.time()) - 3600), room.desk.create()
    room.finish(backup_id, warnings=("full_page_writes is off",))
    page = room.admin.get(f"/console/backups/{backup_id}")
    shown = reads(page)
    for part in (
        f"Backup {backup_id} of {room.name}",
        "0/3000028 to 0/3000100 on timeline 1",
        "PostgreSQL 15.18",
        "warning full_page_writes is off",
        "In the backup 4.00 GiB New: in no earlier backup 1.00 GiB",
        f"icecore restore --repo {room.desk.app.config.repository}",
    ):
        assert part in shown, part
    assert f'aria-label="Backup {backup_id}, ' in page.text
    assert f'aria-label="Backup {before}, 60 min ago' in page.text
    assert page.text.count('aria-current="true"') == 1


def test_a_backup_that_a_rebuilt_catalog_found_claims_no_cost(room: Room) -> None:
    backup_id = room.backup()
    with room.desk.app.catalog.write() as tx:
        tx.execute(sa.delete(tables.job).where(tables.job.c.id == backup_id))
        tx.execute(sa.update(tables.backup).where(tables.backup.c.id == backup_id).values(new_bytes=0))
    page = room.admin.get(f"/console/backups/{backup_id}")
    assert "what it cost when it was made is not known here" in reads(page)
    assert "New: in no earlier backup" not in reads(page)
    assert "/console/tasks/" not in page.text
    assert "0 bytes" not in reads(room.admin.get(room.here))


def test_a_failed_backup_says_why_and_can_be_tried_again(room: Room) -> None:
    failed = room.fail()
    path = f"/console/backups/{failed}"
    page = room.admin.get(path)
    shown = reads(page)
    assert "ENOSPC" in shown
    assert '<a href="/errors/StorageFull">' in page.text
    assert f'href="/console/tasks/{failed}"' in page.text
    assert "It failed, so no restorable moment is lost with it." in reads(
        room.admin.get(
            f"/console/confirm?Action=DeleteBackup&p.db_cluster_id={room.desk.cluster_id}&p.backup_id={failed}"
        )
    )
    again = room.press(path, "CreateBackup")
    assert again.status == 303
    assert again.location != f"/console/tasks/{failed}"
    # the new one is shown while it is made
    page = room.admin.get(f"/console/backups/{again.location.rsplit('/', 1)[1]}")
    assert "Being made" in reads(page)
    assert "data-live=" in page.text


def test_deleting_asks_first_and_says_what_cannot_be_restored_then(room: Room) -> None:
    room.backup(at=int(time.time()) - 86_400 * 3)
    newest = room.backup(at=int(time.time()) - 3600)
    way = re.search(r'href="(/console/confirm\?[^"]+)"', room.admin.get(f"/console/backups/{newest}").text)
    assert way
    question = html.unescape(way[1])
    page = room.admin.get(question)
    assert "What you would lose now grows from 60 min to 3 d." in reads(page)
    assert f'href="/console/backups/{newest}">Leave it' in page.text
    assert room.jobs() == 2  # asking does nothing

    done = room.press(question, "DeleteBackup")
    assert (done.status, done.location) == (303, room.here)
    assert room.admin.get(f"/console/backups/{newest}").status == 404
    assert "3 d" in reads(room.admin.get(room.here))


def test_a_backup_is_verified_from_its_page_and_shows_what_was_found(room: Room) -> None:
    backup_id = room.backup()
    path = f"/console/backups/{backup_id}"
    assert "Checked – never" in reads(room.admin.get(path)) and "Verified – never" in reads(room.admin.get(path))
    assert not [form for form in room.reader.get(path).forms() if form.get("Action") in ("VerifyBackup", "CheckBackup")]

    # the button leads to the task; the worker finds something
    fields = room.form(path, "VerifyBackup")
    pressed = room.admin.post("/console/act", fields)
    job_id = pressed.location.rpartition("/")[2]
    assert room.admin.post("/console/act", fields).location == pressed.location  # pressed twice, done once
    assert f"Verification of backup {backup_id}" in reads(room.admin.get(pressed.location))
    now = int(time.time())
    rows = Examination("rows", Outcome.PASSED, 50, "tables", 2.0, rows=tuple((f"shop.t{n}", n) for n in range(50)))
    said = Examination("assertion: orders", Outcome.FAILED, 1, "assertions", 0.1, (f"it gives {HOSTILE}",))
    missing = Examination("page checksums", Outcome.NOT_RUN, notes=("the cluster has none",))
    cluster_id, times = room.desk.cluster_id, (now, now - 60, now - 10)
    evidence = Evidence(
        ProofKind.VERIFY, job_id, backup_id, cluster_id, Outcome.FAILED, *times, "db7", "0.1.0",
        server_version="15.18", restore_s=20.0, start_s=2.0, examinations=(rows, said, missing),
    )  # fmt: skip
    held = room.claim(job_id)
    proofs.note(room.desk.app.catalog, held, evidence)
    error = errors.VerificationFailed(backup_id=backup_id, reason="; ".join(evidence.failures()))
    jobs.fail(room.desk.app.catalog, held, error)

    # on the backup's page, in the list, on the task's page with a way to try again
    page = room.admin.get(path)
    shown = reads(page)
    assert (
        "Verified ✕ failed" in shown and f"Verification {job_id} failed" in shown and "<script>alert" not in page.text
    )
    assert "it gives <script>alert" in shown and "– not-run" in shown and "with PostgreSQL 15.18" in shown
    assert "shop.t29: 29 rows" in shown and "20 tables more" in shown and "shop.t30" not in shown
    marks = Marks(page.text)
    assert marks.faults == [] and marks.captions == len(marks.tables)
    assert "✕ failed" in reads(room.admin.get(room.here))
    task = room.admin.get(f"/console/tasks/{job_id}")
    assert "VerificationFailed" in reads(task)
    assert [form["p.backup_id"] for form in task.forms() if form.get("Action") == "VerifyBackup"] == [backup_id]


# ---------------------------------------------------------------- all of them


class Marks(HTMLParser):
    """What a page must have for a keyboard and a screen reader, and must not have for its policy."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.labelled: list[str] = []
        self.controls: list[tuple[str, dict[str, str]]] = []
        self.headings: list[int] = []
        self.faults: list[str] = []
        self.tables: list[dict[str, str]] = []
        self.captions = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        if "id" in given:
            self.ids.append(given["id"])
        if any(name == "style" or name.startswith("on") for name in given) or tag == "style":
            self.faults.append(f"inline on {tag}")
        if tag == "script" and "src" not in given:
            self.faults.append("inline script")
        if any(given.get(name, "").startswith(("http:", "https:", "//")) for name in ("src", "href")):
            self.faults.append(f"another host in {tag}")
        if int(given.get("tabindex", "0")) > 0:
            self.faults.append("tabindex")
        if tag == "label":
            self.labelled.append(given.get("for", ""))
        if tag in ("select", "textarea") or (tag == "input" and given.get("type") not in ("hidden", "submit")):
            self.controls.append((tag, given))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "table":
            self.tables.append(given)
        if tag == "caption":
            self.captions += 1


def test_every_page_is_sound_for_policy_keyboard_and_screen_reader(room: Room) -> None:
    now = int(time.time())
    failed, first, last = room.fail(), room.backup(at=now - 86_400), room.backup(at=now - 60)
    room.rename(f"{HOSTILE}{room.name}")
    running = room.desk.create()
    room.claim(running)
    cluster_id = room.desk.cluster_id
    for path in (
        "/console",
        room.here,
        f"{room.here}?tab=health",
        f"/console/backups/{failed}",
        f"/console/backups/{last}",
        f"/console/backups/{running}",
        "/console/restore",
        f"/console/restore?cluster={cluster_id}&backup={first}&name=%22%3E%3Cscript%3E",
        f"/console/confirm?Action=DeleteBackup&p.db_cluster_id={cluster_id}&p.backup_id={first}",
        f"/console/confirm?Action=DeleteDBCluster&p.db_cluster_id={cluster_id}",
    ):
        page = room.admin.get(path)
        reads(page)
        assert "<script>alert" not in page.text, path
        marks = Marks(page.text)
        assert marks.faults == [], path
        assert len(marks.ids) == len(set(marks.ids)), path
        assert marks.headings[0] == 1
        assert marks.headings.count(1) == 1, path
        assert all(after <= before + 1 for before, after in zip(marks.headings, marks.headings[1:], strict=False)), path
        assert all(given.get("id") in marks.labelled or "aria-label" in given for _, given in marks.controls), path
        assert marks.captions == len([t for t in marks.tables if "aria-labelledby" not in t]), path


def test_every_link_of_these_pages_leads_somewhere(room: Room) -> None:
    room.fail()
    room.backup(at=int(time.time()) - 86_400)
    ours = re.compile(r'href="(/[^"#]*)')
    seen: set[str] = set()
    waiting = [room.here]
    mine = re.compile(rf"/console/(clusters|backups|tasks|restore|confirm)\b.*|/errors/.+|{re.escape(room.here)}.*")
    while waiting and len(seen) < 60:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        page = room.admin.get(path)
        assert page.status == 200, path
        if room.desk.cluster_id in path or "/console/backups/" in path:
            waiting += [found for each in ours.findall(page.text) if mine.fullmatch(found := html.unescape(each))]
    assert len(seen) > 10


# ---------------------------------------------------------------- instant clones


def test_a_level_1_backup_is_looked_inside_and_its_clone_has_an_end(room: Room) -> None:
    backup_id = room.backup()
    path = f"/console/backups/{backup_id}"
    assert "Look inside" not in reads(room.admin.get(path))  # the repository alone has it
    clusters.imaged(room.desk.app.catalog, room.desk.cluster_id, backup_id, image_bytes=0)
    assert "instant clone" not in reads(room.reader.get(path)).replace("Instant", "")
    done = room.press(path, "CreateClone")
    clone_id = done.location.rpartition("/")[2]
    assert "being restored" in reads(room.admin.get(done.location))
    room.restored(clone_id)
    shown = reads(room.admin.get(done.location))
    assert "An instant clone" in shown and "24 h" in shown and "Back up now" not in shown
    assert clone_id in room.admin.get(path).text and clone_id in room.admin.get(room.here).text
    # not for keeps: it is no concern, and is let live longer or removed, which is asked first
    assert room.desk.call("DescribeOverview")["sentences"] == [
        line for line in room.desk.call("DescribeOverview")["sentences"] if clone_id[-4:] not in line
    ]
    with room.desk.app.catalog.write() as tx:
        tx.execute(
            sa.update(tables.clone).where(tables.clone.c.cluster_id == clone_id).values(expires_at=time.time() + 60)
        )
    assert "ends soon" in reads(room.admin.get(done.location))
    assert room.press(done.location, "ModifyClone").location == done.location
    assert "ends soon" not in reads(room.admin.get(done.location))
    asked = f"/console/confirm?Action=DeleteClone&p.db_cluster_id={clone_id}"
    assert "not touched" in reads(room.admin.get(asked))
    assert room.press(asked, "DeleteClone").location == "/console"
    assert "Deleting" in reads(room.admin.get(path))
