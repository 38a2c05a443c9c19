"""Tasks as they run and end: the list, and the page of each."""

from __future__ import annotations

import html
import re
import time

import pytest
import sqlalchemy as sa
from office import GIB, HOSTILE, PAGE_LIMIT_BYTES, Office, make_house, make_office, plain
from visitor import Visitor, visiting

from conftest import Desk
from icecore import errors
from icecore.binding import Part
from icecore.catalog import jobs, keys, tables
from icecore.model import Phase

__all__ = ["make_house", "make_office"]  # fixtures


# ---------------------------------------------------------------- the list


def test_nothing_done_yet_says_how_to_begin(desk: Desk) -> None:
    key = keys.create(desk.app.catalog, "reader")
    with visiting(desk.app) as port:
        visitor = Visitor(port)
        visitor.sign_in(key.id, key.secret)
        page = visitor.get("/console/tasks")
    assert page.status == 200
    assert "Nothing has been done yet" in page.text
    assert "icecore backup NAME" in plain(page.text)


def test_list_shows_each_state_in_words_and_filters(office: Office) -> None:
    done = office.done()
    failed = office.desk.create()
    office.fail(office.run(failed), errors.StorageFull(doing="write", name="packs/3f.pack", reason="ENOSPC"))
    running = office.desk.create()
    office.progress(office.run(running), 2 * GIB)
    queued = office.desk.create()

    mine = f"cluster={office.desk.cluster_id}"
    text = office.admin.get(f"/console/tasks?{mine}").text
    for job_id, word in ((done, "succeeded"), (failed, "failed"), (running, "Uploading"), (queued, "queued")):
        row = re.search(rf'<tr id="task-{job_id}".*?</tr>', text, re.DOTALL)
        assert row and word in plain(row[0]), (job_id, word)
    assert '<a href="/errors/StorageFull">' in text
    assert f'data-live="/console/tasks/events?list=1&amp;{mine}"' in text
    assert all(f'id="task-{job_id}"' in office.admin.get("/console/tasks").text for job_id in (done, queued))

    for query, shown in (
        ("state=failed", {failed}),
        ("state=queued&kind=backup", {queued}),
        ("kind=restore", set[str]()),
        ("state=running", {running}),
    ):
        page = office.admin.get(f"/console/tasks?{query}&{mine}")
        assert set(re.findall(r'<tr id="task-(\d+)"', page.text)) == shown, query
    assert "No task is like that" in office.admin.get(f"/console/tasks?kind=restore&{mine}").text
    assert office.admin.get("/console/tasks?state=odd").status == 400
    assert office.admin.get("/console/tasks?after=rubbish").status == 400
    # a filter that is chosen stays chosen, and goes along to the stream
    page = office.admin.get("/console/tasks?state=failed")
    assert '<option value="failed" selected>' in page.text
    assert 'data-live="/console/tasks/events?list=1&amp;state=failed"' in page.text


def test_pages_of_the_list_show_each_task_once_and_stay_small(office: Office) -> None:
    office.rename(office.name + "&" * 240)
    made = []
    for _ in range(65):
        made.append(office.desk.create())
        office.fail(office.run(made[-1]), errors.EngineFailed(doing="reading", reason="<x>" * 400))
    seen: list[str] = []
    address = f"/console/tasks?state=failed&cluster={office.desk.cluster_id}"
    while address:
        page = office.admin.get(address)
        assert page.status == 200 and len(page.body) < PAGE_LIMIT_BYTES
        seen += re.findall(r'<tr id="task-(\d+)"', page.text)
        older = re.search(r'<a href="([^"]*)" rel="next">Older</a>', page.text)
        address = html.unescape(older[1]) if older else ""
        if "after=" in address:
            assert "state=failed" in address
    assert seen == made[::-1]
    assert "data-live" not in page.text  # an old page stands still


# ---------------------------------------------------------------- one task


def test_running_task_shows_steps_numbers_and_cancel(office: Office) -> None:
    job_id = office.desk.create()
    held = office.run(job_id)
    office.progress(held, 1 * GIB)
    with office.desk.app.catalog.write() as tx:  # as if it had begun ten seconds ago
        began = {"started_at": int(time.time()) - 10}
        tx.execute(sa.update(tables.job).where(tables.job.c.id == job_id).values(**began))

    page = office.admin.get(f"/console/tasks/{job_id}")
    text = plain(page.text)
    assert f"Backup of {office.name}" in text
    assert re.search(r'<li class="now" aria-current="step">.*Uploading', page.text)
    assert page.text.count('<li class="done">') == 3 and page.text.count('<li class="next">') == 2
    assert "1.00 GiB of 4.00 GiB" in text and "341 MiB had to be stored" in text
    assert re.search(r"Rate (9\d|10\d)(\.\d)? MiB/s", text), text
    assert re.search(r"Time left about 3\d s", text), text
    assert '<noscript><meta http-equiv="refresh"' in page.text and "live.js" in page.text

    # Cancel asks first; the job ends when it looks
    ask = re.search(r'href="(/console/confirm[^"]*CancelJob[^"]*)"', page.text)
    assert ask
    confirm = office.admin.get(html.unescape(ask[1]))
    form = next(form for form in confirm.forms() if form[":action"] == "/console/act")
    acted = office.admin.post("/console/act", {k: v for k, v in form.items() if k[0] != ":"})
    assert (acted.status, acted.location) == (303, f"/console/tasks/{job_id}")
    spent_ms = {Part.CPU: 7100, Part.READ: 900, Part.WRITE: 2000}
    told = {"phase": Phase.UPLOADING, "done": GIB, "total": 4 * GIB, "new": 0, "spent_ms": spent_ms}
    assert jobs.progress(office.desk.app.catalog, held, **told).cancelled
    text = plain(office.reader.get(f"/console/tasks/{job_id}").text)
    assert "CPU binds: 71 % of the time went into hashing, compressing and encrypting, 20 % into writing" in text
    assert "In cpu 71 % 7.1 s In write 20 % 2.0 s In read 9 % 0.9 s" in text
    office.fail(held, errors.Cancelled())
    text = plain(office.admin.get(f"/console/tasks/{job_id}").text)
    assert "Cancelled" in text and "JobCancelled" in text and "Try again" in text

    # a reader sees the same and can do nothing
    seen = office.reader.get(f"/console/tasks/{job_id}").text
    assert "JobCancelled" in seen and "Try again" not in seen


def test_queued_task_says_what_it_waits_for(office: Office) -> None:
    running, queued = office.desk.create(), office.desk.create()
    office.progress(office.run(running), GIB)
    page = office.admin.get(f"/console/tasks/{queued}")
    assert f'Waits until <a href="/console/tasks/{running}">Backup of {office.name}</a> has ended' in page.text
    with office.desk.app.catalog.write() as tx:
        tx.execute(sa.delete(tables.job).where(tables.job.c.id == running))
        earlier = {"queued_at": int(time.time()) - 60}
        tx.execute(sa.update(tables.job).where(tables.job.c.id == queued).values(**earlier))
    assert "No worker has taken it yet" in office.admin.get(f"/console/tasks/{queued}").text


def test_failed_backup_names_code_cause_and_hint_and_is_tried_again_once(office: Office) -> None:
    job_id = office.desk.create()
    held = office.run(job_id)
    office.progress(held, GIB)
    office.fail(held, errors.StorageFull(doing="write", name=HOSTILE, reason="ENOSPC"))
    page = office.admin.get(f"/console/tasks/{job_id}")
    text = plain(page.text)
    assert "StorageFull" in text and "no space left to write" in text and "Free space" in text
    assert '<a href="/errors/StorageFull">' in page.text
    assert "<script>alert" not in page.text
    report = re.search(r"<textarea[^>]*readonly[^>]*>(.*?)</textarea>", page.text, re.DOTALL)
    assert report
    told = html.unescape(report[1])
    for word in (job_id, "StorageFull", office.desk.cluster_id, "Attempts", "ENOSPC", "Icecore"):
        assert word in told

    # pressed twice, it is one backup
    form = next(form for form in page.forms() if form.get("Action") == "CreateBackup")
    fields = {name: value for name, value in form.items() if name[0] != ":"}
    first, second = (office.admin.post("/console/act", fields) for _ in range(2))
    assert first.status == second.status == 303
    assert first.location == second.location != f"/console/tasks/{job_id}"


def test_failed_restore_leads_to_a_new_plan(office: Office) -> None:
    backup_id = office.done()
    job_id = office.restore(backup_id, f"{office.name}-2")
    office.fail(office.run(job_id), errors.TargetRefused("no room", "Free some."))
    page = office.admin.get(f"/console/tasks/{job_id}")
    again = f"/console/restore?cluster={office.desk.cluster_id}&amp;backup={backup_id}&amp;name={office.name}-2"
    assert f'href="{again}"' in page.text
    assert "OperationDenied.RestoreTarget" in page.text
    # the cluster never came to be: nothing leads to it
    assert "/console/clusters/pc-" not in page.text.replace(office.desk.cluster_id, "")
    # and when its backup is gone there is nothing to try
    office.desk.call("DeleteBackup", DBClusterId=office.desk.cluster_id, BackupId=backup_id)
    assert "Try again" not in office.admin.get(f"/console/tasks/{job_id}").text


def test_success_leads_to_what_was_made(office: Office) -> None:
    backup_id = office.done()
    page = office.admin.get(f"/console/tasks/{backup_id}")
    assert f'<a href="/console/backups/{backup_id}">' in page.text
    assert f"/console/restore?cluster={office.desk.cluster_id}&amp;backup={backup_id}" in page.text
    assert "live.js" not in page.text

    job_id = office.restore(backup_id, f"{office.name}-2")
    held = office.run(job_id)
    jobs.finish_restore(office.desk.app.catalog, held, dsn="host=/x", host="127.0.0.1", port=5444)
    page = office.admin.get(f"/console/tasks/{job_id}")
    assert f'<a href="/console/clusters/{held.cluster_id}">' in page.text

    office.desk.call("DeleteBackup", DBClusterId=office.desk.cluster_id, BackupId=backup_id)
    assert "has been deleted since" in office.admin.get(f"/console/tasks/{backup_id}").text


def test_failed_removal_can_be_asked_for_again(office: Office) -> None:
    backup_id = office.done()
    office.desk.call("DeleteBackup", DBClusterId=office.desk.cluster_id, BackupId=backup_id)
    removal = office.desk.call("DescribeJobs", JobKind="delete-backup", MaxResults="1")["items"]["job"][0]["job_id"]
    assert "CancelJob" not in office.admin.get(f"/console/tasks/{removal}").text  # it cannot be cancelled
    office.fail(office.run(removal), errors.StorageFailed(doing="remove", name="x", reason="EIO"))
    page = office.admin.get(f"/console/tasks/{removal}")
    form = next(form for form in page.forms() if form.get("Action") == "DeleteBackup")
    assert office.admin.post("/console/act", {k: v for k, v in form.items() if k[0] != ":"}).status == 303


@pytest.mark.parametrize("job_id", ["1", "x" * 64, "x" * 65, "%00", "..%2f", "%3Cscript%3E"])
def test_unknown_task_is_a_page_that_says_so(office: Office, job_id: str) -> None:
    page = office.admin.get(f"/console/tasks/{job_id}")
    assert page.status in (400, 404)
    assert "<script>" not in page.text.replace('<script src="', "")
