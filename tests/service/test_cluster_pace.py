"""The pace of one cluster's backups: set by a call, seen by a person, taken up by a job that runs."""

from __future__ import annotations

import threading

import pytest

from icecore import config as home
from icecore import errors, watch
from icecore.app import App
from icecore.catalog import jobs
from icecore.model import Phase


def shown(desk) -> tuple[int, bool, bool, bool]:
    found = desk.call("DescribeClusterHealth", DBClusterId=desk.cluster_id)
    return found["max_rate_bytes"], found["max_rate_own"], found["background"], found["background_own"]


def test_what_is_not_given_stays_and_default_is_the_homes(desk, monkeypatch):
    assert shown(desk) == (0, False, False, False)
    desk.call("ModifyDBClusterPace", DBClusterId=desk.cluster_id, MaxRate="200MB")
    desk.call("ModifyDBClusterPace", DBClusterId=desk.cluster_id, Background="on")
    assert shown(desk) == (200_000_000, True, True, True)

    monkeypatch.setenv("ICECORE_MAX_RATE", "5MB")
    monkeypatch.setenv("ICECORE_BACKGROUND", "true")
    desk.app.close()
    desk.app = App(home.load(desk.home))
    desk.call("ModifyDBClusterPace", DBClusterId=desk.cluster_id, MaxRate="0", Background="off")
    assert shown(desk) == (0, True, False, True)  # no limit here, whatever the home says
    desk.call("ModifyDBClusterPace", DBClusterId=desk.cluster_id, MaxRate="default", Background="default")
    assert shown(desk) == (5_000_000, False, True, False)

    for wrong in ("fast", "-1", "0.1", "9" * 30):
        with pytest.raises(errors.InvalidParameter):
            desk.call("ModifyDBClusterPace", DBClusterId=desk.cluster_id, MaxRate=wrong)
    with pytest.raises(errors.ClusterNotFound):
        desk.call("ModifyDBClusterPace", DBClusterId="pc-none", Background="on")


def test_a_job_that_runs_takes_it_up_with_its_next_word_to_the_catalog(desk, monkeypatch):
    monkeypatch.setattr(watch, "TELL_EVERY_S", 0.0)
    held = jobs.claim(desk.app.catalog, desk.create(), "me", lambda _: False)
    assert held is not None
    eye = watch.JobWatch(desk.app.catalog, held, threading.Event())
    eye.phase(Phase.UPLOADING)
    eye.pace.spend(1 << 60, threading.Event())  # no limit
    desk.call("ModifyDBClusterPace", DBClusterId=desk.cluster_id, MaxRate="1", Background="on")
    eye.step("copying")
    assert eye.pace.background

    # and what waits at a byte a second goes on when the limit is taken away
    waiting = threading.Thread(target=eye.pace.spend, args=[1 << 30, threading.Event()], daemon=True)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    desk.call("ModifyDBClusterPace", DBClusterId=desk.cluster_id, MaxRate="0", Background="off")
    eye.step("copying")
    waiting.join(10)
    assert not waiting.is_alive() and not eye.pace.background
