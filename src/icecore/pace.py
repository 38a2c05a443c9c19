"""How fast a backup may go, so that the database beside it keeps its disk and its cores."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import threading
import time

from icecore.binding import Part
from icecore.laps import lap

NICE = 10
LOOK_EVERY_S = 0.25  # how soon a thread that waits takes up another rate
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # system call numbers
_IOPRIO_WHO_PROCESS, _IOPRIO_CLASS_NONE, _IOPRIO_CLASS_IDLE, _IOPRIO_CLASS_SHIFT = 1, 0, 3, 13  # ioprio_set(2)


class Pace:
    """At most ``bytes_per_s`` over all threads (0: as fast as it goes). ``background``: threads get core and disk when
    nobody else wants them. Both may be set anew while threads are at work."""

    def __init__(self, bytes_per_s: int = 0, *, background: bool = False) -> None:
        self._bytes_per_s, self._background = bytes_per_s, background
        self._lock = threading.Lock()
        self._spent_bytes = 0.0
        self._due_bytes = 0.0  # of those, what the rate has paid for until
        self._due_at = time.monotonic()
        self._own = threading.local()

    @property
    def background(self) -> bool:
        return self._background

    def set(self, bytes_per_s: int, *, background: bool) -> None:
        """From now on: also for bytes that threads wait for already."""
        with self._lock:
            self._pay()
            self._bytes_per_s, self._background = bytes_per_s, background

    def begin_thread(self) -> None:
        """For the calling thread only. What the system does not grant is left as it is: whoever is not root can get
        behind others, and not before them again."""
        background = self._background
        if background == getattr(self._own, "background", False):
            return
        self._own.background = background
        with contextlib.suppress(OSError):
            if background:
                self._own.nice = os.getpriority(os.PRIO_PROCESS, 0)  # on Linux 0 is the calling thread
            os.setpriority(os.PRIO_PROCESS, 0, max(self._own.nice, NICE) if background else self._own.nice)
        if (number := _IOPRIO_SET.get(platform.machine())) is not None:
            kind = _IOPRIO_CLASS_IDLE if background else _IOPRIO_CLASS_NONE
            ctypes.CDLL(None, use_errno=True).syscall(number, _IOPRIO_WHO_PROCESS, 0, kind << _IOPRIO_CLASS_SHIFT)

    def spend(self, count: int, ended: threading.Event) -> None:
        """Return when ``count`` more bytes are due, at once when ``ended`` is set."""
        self.begin_thread()
        if not self._bytes_per_s:
            return
        with self._lock:
            self._pay()
            self._spent_bytes += count
            mine = self._spent_bytes
        while (wait_s := self._wait_s(mine)) > 0 and not ended.wait(min(wait_s, LOOK_EVERY_S)):
            pass
        lap(Part.PACE)

    def _wait_s(self, until_bytes: float) -> float:
        with self._lock:
            self._pay()
            left = until_bytes - self._due_bytes
            return left / self._bytes_per_s if self._bytes_per_s and left > 1e-3 else 0.0

    def _pay(self) -> None:
        """A pause is not saved up."""
        now = time.monotonic()
        paid = (now - self._due_at) * self._bytes_per_s if self._bytes_per_s else self._spent_bytes
        self._due_bytes, self._due_at = min(self._due_bytes + paid, self._spent_bytes), now
