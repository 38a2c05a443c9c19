"""What binds a job: said in a sentence, and found out by slowing one thing after the other."""

from __future__ import annotations

import threading

import pytest

from icecore import laps as module
from icecore.binding import Part, binds, sentence
from icecore.laps import Laps, lap
from icecore.model import JobKind

NOTHING = dict.fromkeys(Part, 0)


def test_the_sentence_names_what_binds_and_the_next():
    assert sentence(NOTHING, JobKind.BACKUP) == "" and binds(NOTHING) is None
    spent = NOTHING | {Part.CPU: 710, Part.READ: 90, Part.WRITE: 200}
    assert sentence(spent, JobKind.BACKUP) == (
        "CPU binds: 71 % of the time went into hashing, compressing and encrypting, 20 % into writing the repository."
    )
    assert sentence(NOTHING | {Part.READ: 5}, JobKind.RESTORE) == (
        "Reading binds: 100 % of the time went into reading the repository."
    )
    shared = NOTHING | {Part.CPU: 40, Part.READ: 39, Part.WRITE: 21}
    assert binds(shared) is None and sentence(shared, JobKind.BACKUP).startswith("Nothing binds alone: 40 % of the")


def test_time_in_which_threads_worked_is_shared_out_as_they_spent_theirs(monkeypatch: pytest.MonkeyPatch):
    now = 0

    def passes(seconds: int) -> None:
        nonlocal now
        now += seconds * 10**9

    monkeypatch.setattr(module, "perf_counter_ns", lambda: now)
    laps = Laps()
    passes(4)
    laps.passed(Part.SERVER)
    with laps.working():  # four threads' worth of time, in one
        passes(30)
        lap(Part.CPU)
        passes(10)
        lap(Part.READ)
        passes(7)  # of no lap
    lap(Part.WRITE)  # outside: nobody's
    laps.skip()
    passes(20)
    laps.passed(None)
    assert laps.spent_ms() == NOTHING | {Part.SERVER: 4000, Part.CPU: 15_000, Part.READ: 5000}


def test_busy_threads_do_not_bind_while_the_one_that_leads_need_not_wait(monkeypatch: pytest.MonkeyPatch):
    now = 0

    def passes(seconds: int, part: Part | None) -> None:
        nonlocal now
        now += seconds * 10**9
        lap(part)

    monkeypatch.setattr(module, "perf_counter_ns", lambda: now)
    laps = Laps()

    def store() -> None:
        with laps.working():
            passes(60, Part.CPU)
            passes(20, Part.WRITE)

    follower = threading.Thread(target=store)
    follower.start()
    follower.join()
    laps.skip()
    with laps.working(leading=True):
        passes(6, Part.NETWORK)
        passes(4, None)
    laps.passed(None)
    assert laps.spent_ms() == NOTHING | {Part.NETWORK: 6000, Part.CPU: 3000, Part.WRITE: 1000}
