"""Restoring by the console: what is chosen is what is said and what is done, once; and what is told when it fails."""

from __future__ import annotations

import html
import re
import time
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from room import HOSTILE, House, Room, enter, plain, reads, register, serving

from conftest import Desk
from icecore import errors
from icecore.catalog import jobs, tables
from icecore.model import JobState


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One home and server for all: a test has its own cluster and people in it."""
    with serving(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest.fixture
def room(house: House) -> Room:
    return enter(house)


# ---------------------------------------------------------------- restoring


def test_a_restore_is_planned_on_one_page_and_done_once(room: Room) -> None:
    older, newer = room.backup(at=int(time.time()) - 7200), room.backup(at=int(time.time()) - 600)
    # every step is there from the beginning
    page = room.admin.get("/console/restore")
    assert [plain(found) for found in re.findall(r"<h2 .*?</h2>", page.text)] == [
        "1 Which cluster",
        "2 When",
        "3 Where",
        "4 Review",
    ]
    assert f'<option value="{room.desk.cluster_id}">' in page.text

    # the newest moment unless another is chosen
    path = f"/console/restore?cluster={room.desk.cluster_id}"
    assert room.form(path, "CreateDBCluster")["p.clone_data_point"] == newer
    page = room.admin.get(f"{path}&backup={older}")
    shown = reads(page)
    assert f"Left out: what was written to {room.name} in the 2 h since then" in shown
    assert f"{room.name} itself is not touched" in shown
    assert "about" not in shown.split("4 Review")[1].split("Show the call")[0]  # nothing has run long enough to tell
    assert f"CloneDataPoint={older}" in shown  # the call that is shown is the one that is made
    assert re.search(rf'aria-label="Backup {older}, [^"]*" aria-current="true"', page.text)
    assert f'href="/console/restore?cluster={room.desk.cluster_id}&amp;backup={newer}#review"' in page.text

    form = room.form(f"{path}&backup={older}", "CreateDBCluster")
    name = f"copy-{HOSTILE}-{room.name}"
    made = [room.admin.post("/console/act", form | {"p.db_cluster_description": name}) for _ in range(2)]
    assert {answer.status for answer in made} == {303}
    assert len({answer.location for answer in made}) == 1
    new_id = made[0].location.rsplit("/", 1)[1]

    # being made, then there
    page = room.admin.get(made[0].location)
    assert f"It is being restored from backup {older} of {room.name}" in reads(page)
    assert "<script>alert" not in page.text
    assert "Back up now" not in plain(page.text)
    assert "data-live=" in page.text
    room.restored(new_id)
    page = room.admin.get(made[0].location)
    assert "psql -h 127.0.0.1 -p 5439" in reads(page)
    assert f"Made from backup {older} of {room.name}" in reads(page)
    assert "never backed up" not in reads(page)


def test_a_restore_that_failed_says_so_where_it_was_waited_for(room: Room) -> None:
    backup_id = room.backup()
    path = f"/console/restore?cluster={room.desk.cluster_id}"
    made = room.press(path, "CreateDBCluster", **{"p.db_cluster_description": f"lost-{room.name}"}).location
    job = room.desk.call("DescribeJobs", DBClusterId=made.rsplit("/", 1)[1])["items"]["job"][0]
    error = errors.StorageFull(doing="write", name="data", reason="ENOSPC")
    jobs.fail(room.desk.app.catalog, room.claim(job["job_id"]), error)
    page = room.admin.get(made)
    assert "The restore failed" in reads(page)
    assert "ENOSPC" in reads(page)
    assert '<a href="/errors/StorageFull">' in page.text
    assert f'href="/console/tasks/{job["job_id"]}"' in page.text
    again = re.search(r'href="(/console/restore[^"]+)">Try again', page.text)
    assert again
    form = room.form(html.unescape(again[1]), "CreateDBCluster")
    assert form["p.clone_data_point"] == backup_id
    page = room.admin.get(html.unescape(again[1]))
    assert f'name="p.db_cluster_description" form="restore" value="lost-{room.name}"' in page.text
    # its name is free again
    answer = room.admin.post("/console/act", form | {"p.db_cluster_description": f"lost-{room.name}"})
    assert answer.status == 303


def test_an_estimate_tells_the_run_that_it_comes_from(room: Room) -> None:
    backup_id = room.backup()
    with room.desk.app.catalog.write() as tx:
        # forty seconds for four GiB, the only run so far that is long enough
        tx.execute(
            sa.update(tables.job).where(tables.job.c.id == backup_id).values(started_at=tables.job.c.ended_at - 40)
        )
        tx.execute(
            sa.delete(tables.job).where(tables.job.c.kind == "restore", tables.job.c.state == JobState.SUCCEEDED)
        )
    shown = reads(room.admin.get(f"/console/restore?cluster={room.desk.cluster_id}"))
    assert f"It takes about 40 s, if it goes like backup task {backup_id}: 4.00 GiB in 40 s." in shown


def test_only_a_restorable_backup_of_the_cluster_can_be_chosen(room: Room, house: House) -> None:
    failed, good = room.fail(), room.backup()
    other = Desk(room.desk.home, room.desk.app, register(room.desk.app, f"other{uuid.uuid4().hex[:8]}"))
    other.seen_running()
    path = f"/console/restore?cluster={room.desk.cluster_id}"
    assert room.admin.get(f"{path}&backup={failed}").status == 400
    assert room.admin.get(f"/console/restore?cluster={other.cluster_id}&backup={good}").status == 400
    assert room.admin.get(f"{path}&backup={'9' * 20}").status == 400
    assert room.admin.get(f"{path}&backup=%3Cb%3E").status == 400
    assert "has no restorable moment" in reads(room.admin.get(f"/console/restore?cluster={other.cluster_id}"))


def test_a_removed_cluster_can_be_restored_while_its_backups_are_kept(room: Room) -> None:
    backup_id = room.backup()
    page = room.admin.get(room.here)
    chosen = next(form for form in page.forms() if form[":action"] == "/console/confirm")
    assert chosen["p.db_cluster_id"] == room.desk.cluster_id
    question = (
        f"/console/confirm?Action=DeleteDBCluster&p.db_cluster_id={room.desk.cluster_id}"
        "&p.backup_retention_policy_on_cluster_deletion=ALL"
    )
    assert "Its backups are kept (1) and can still be restored." in reads(room.admin.get(question))
    assert room.press(question, "DeleteDBCluster", typed="another").status == 400
    assert room.press(question, "DeleteDBCluster", typed=room.name).location == "/console"

    # while it is removed, and after
    assert "Deleting" in reads(room.admin.get(room.here))
    room.removed()
    page = room.admin.get(room.here)
    shown = reads(page)
    assert f"{room.name} – Removed" in shown
    assert "not protected any more" in shown
    assert f'href="/console/backups/{backup_id}"' in page.text
    assert "Back up now" not in shown
    assert room.admin.get(f"{room.here}?tab=health").status == 200
    path = f"/console/restore?cluster={room.desk.cluster_id}"
    page = room.admin.get(path)
    assert "Left out" not in reads(page)
    assert 'class="risk"' not in page.text  # nothing more is written that could be lost
    assert f'<option value="{room.desk.cluster_id}" selected>{room.name}' in page.text
    made = room.press(path, "CreateDBCluster")
    assert made.status == 303
    assert reads(room.admin.get(made.location))
