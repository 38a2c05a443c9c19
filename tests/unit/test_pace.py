"""How fast a backup may read, and how a person says so."""

from __future__ import annotations

import os
import threading

import pytest

from icecore import config, errors, pace


class Clock:
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += max(0.0, seconds)
        return False


def test_bytes_take_their_time_whoever_spends_them(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    limited = pace.Pace(1000)
    for count in (100, 1, 2399):
        limited.spend(count, clock)  # type: ignore[arg-type]
    assert clock.now == pytest.approx(102.5)
    clock.now += 60  # a pause is not saved up
    limited.spend(1000, clock)  # type: ignore[arg-type]
    assert clock.now == pytest.approx(163.5)


def test_no_limit_and_an_ended_copy_do_not_wait():
    ended = threading.Event()
    pace.Pace().spend(1 << 60, ended)
    ended.set()
    pace.Pace(1).spend(1 << 30, ended)  # would take 34 years


def test_background_is_for_the_threads_that_ask_for_it_alone():
    found: list[int] = []

    def look(background: bool) -> None:
        pace.Pace(background=background).begin_thread()
        found.append(os.getpriority(os.PRIO_PROCESS, 0))

    before = os.getpriority(os.PRIO_PROCESS, 0)
    for background in (True, False):
        thread = threading.Thread(target=look, args=[background])
        thread.start()
        thread.join()
    assert found == [max(before, pace.NICE), before] and os.getpriority(os.PRIO_PROCESS, 0) == before


@pytest.mark.parametrize(
    ("text", "rate"),
    [("0", 0), ("50MB", 50_000_000), ("0.5 GB/s", 500_000_000), ("64MiB", 64 << 20), ("9kB", 9000), ("123", 123)],
)
def test_a_rate_is_said_as_people_say_it(tmp_path, monkeypatch, text, rate):
    config.create(tmp_path / "home")
    monkeypatch.setenv("ICECORE_MAX_RATE", text)
    assert config.load(tmp_path / "home").max_rate_bytes_s == rate


@pytest.mark.parametrize("text", ["fast", "-1", "50 TB", "1.5.5MB", "0.1", "", "9" * 400])
def test_a_rate_that_means_nothing_is_refused_by_name(tmp_path, monkeypatch, text):
    config.create(tmp_path / "home")
    monkeypatch.setenv("ICECORE_MAX_RATE", text)
    with pytest.raises(errors.Refused, match="max_rate"):
        config.load(tmp_path / "home")


def test_another_rate_counts_for_bytes_that_are_waited_for_already(monkeypatch):
    """1000 bytes at 100 a second; after two seconds 400 a second, after three more nothing holds them."""
    paced = pace.Pace(100)

    class Turning(Clock):
        def wait(self, seconds: float) -> bool:
            super().wait(seconds)
            if 102 <= self.now < 102.2:
                paced.set(400, background=False)
            if self.now > 200:
                paced.set(0, background=False)
            return False

    clock = Turning()
    monkeypatch.setattr(pace, "time", clock)
    paced = pace.Pace(100)
    paced.spend(1000, clock)  # type: ignore[arg-type]
    assert clock.now == pytest.approx(104)  # 200 bytes, then 800 at four times the rate
    clock.now = 200.0
    paced.spend(1 << 40, clock)  # type: ignore[arg-type]
    assert clock.now < 201


def test_a_thread_at_work_gets_behind_others_and_before_them_again():
    if os.geteuid() != 0:
        pytest.skip("only root may get before others again")
    paced, found = pace.Pace(), []

    def work() -> None:
        paced.begin_thread()
        for background in (False, True, True, False):
            paced.set(0, background=background)
            paced.spend(1, threading.Event())
            found.append(os.getpriority(os.PRIO_PROCESS, 0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert found == [usual, max(usual, pace.NICE), max(usual, pace.NICE), usual]
