"""Following work to its end: a line that is redrawn on a terminal, else a line a phase and a line each 30 seconds."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from icecore import errors
from icecore.cli import screens
from icecore.cli.calls import Calls
from icecore.cli.output import Output

REDRAW_S = 0.2
POLL_AT_LEAST_S = 0.05  # a short job's end is noticed at once, a long one is not asked about all the time
TELL_EVERY_S = 30.0
JSON_EVERY_S = 1.0
RATE_OVER_S = 10.0
ENDED = ("succeeded", "failed", "cancelled")


class Progress:
    """Shows where a job is. ``show`` may be called as often as one likes."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._began = time.monotonic()
        self._told_at = self._drawn_at = self._json_at = -TELL_EVERY_S
        self._phase = ""
        self._drawn = False
        self._samples: deque[tuple[float, int]] = deque()

    def show(self, job: Mapping[str, Any], wire: Mapping[str, Any] | None = None) -> None:
        """``job``: phase, process, bytes_done, bytes_total, bytes_new. ``wire``: the same for JSON lines."""
        now = time.monotonic()
        rate = self._rate(now, int(job.get("bytes_done", 0)), str(job.get("phase", "")))
        text = screens.progress(job, now - self._began, rate)
        if self._output.json:
            if now - self._json_at >= JSON_EVERY_S and wire is not None:
                self._json_at = now
                self._output.line("Status", wire)
        elif self._output.live:
            if now - self._drawn_at >= REDRAW_S:
                self._drawn_at = now
                self._draw(text)
        elif self._phase != job.get("phase") or now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            self._output.say(text)
        self._phase = str(job.get("phase", ""))

    def end(self) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # noqa: T201 the line is not left behind
            self._drawn = False

    def _draw(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)  # noqa: T201
        self._drawn = True

    def _rate(self, now: float, done_bytes: int, phase: str) -> float:
        """Bytes a second over the last seconds of this phase."""
        if phase != self._phase:
            self._samples.clear()
        self._samples.append((now, done_bytes))
        while self._samples[-1][0] - self._samples[0][0] > RATE_OVER_S:
            self._samples.popleft()
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / (end - start) if end - start >= 1.0 else 0.0


def follow(calls: Calls, job_id: str, output: Output) -> dict[str, Any]:
    """Wait for the job's end and give it; raises the error it failed with, ``Cancelled`` if it was cancelled.

    Where nobody runs jobs, this process does for as long as it waits. Ctrl-C stops the waiting, not the job.
    """
    progress = Progress(output)
    began = time.monotonic()
    try:
        with calls.working():
            while True:
                answer = calls("DescribeJobs", job_id=job_id)
                job: dict[str, Any] = answer.result["items"]["job"][0]
                progress.show(job, answer.part("items", "job")[0])
                if job["state"] in ENDED:
                    break
                waited_s = time.monotonic() - began
                time.sleep(REDRAW_S if output.live else min(REDRAW_S * 2, max(POLL_AT_LEAST_S, waited_s / 20)))
    except KeyboardInterrupt:
        progress.end()
        waits = "" if calls.worker_lives() else ", when a worker runs: icecore serve"
        output.say(f"Stopped following. Job {job_id} goes on{waits}.\nNext: icecore watch {job_id}")
        raise
    progress.end()
    if job["state"] == "cancelled":
        raise errors.Cancelled()
    if job["state"] == "failed":
        raise failure(job)
    return job


def failure(job: Mapping[str, Any]) -> errors.IcecoreError:
    """The error a job ended with, as the class that was raised in the worker."""
    from icecore.api.client import rebuild

    error = rebuild(str(job.get("error_code", "")), str(job.get("error_message", "")), 500)
    hint = str(job.get("error_hint", ""))
    if hint:
        error.advice = lambda: hint  # type: ignore[method-assign]  # the worker knew more than the class
    return error
