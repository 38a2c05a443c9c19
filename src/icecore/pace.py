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
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # system call numbers
_IOPRIO_WHO_PROCESS, _IOPRIO_CLASS_IDLE, _IOPRIO_CLASS_SHIFT = 1, 3, 13  # ioprio_set(2)


class Pace:
    """At most ``bytes_per_s`` over all threads (0: as fast as it goes). ``background``: threads that began with it get
    core and disk when nobody else wants them."""

    def __init__(self, bytes_per_s: int = 0, *, background: bool = False) -> None:
        self._bytes_per_s, self._background = bytes_per_s, background
        self._lock = threading.Lock()
        self._free_at = 0.0  # on the monotonic clock: when all that was spent is paid for

    def begin_thread(self) -> None:
        """For the calling thread only. What the system does not grant is left as it is."""
        if not self._background:
            return
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, NICE)  # on Linux 0 is the calling thread
        if (number := _IOPRIO_SET.get(platform.machine())) is not None:
            idle = _IOPRIO_CLASS_IDLE << _IOPRIO_CLASS_SHIFT
            ctypes.CDLL(None, use_errno=True).syscall(number, _IOPRIO_WHO_PROCESS, 0, idle)

    def spend(self, count: int, ended: threading.Event) -> None:
        """Return when ``count`` more bytes are due, at once when ``ended`` is set."""
        if not self._bytes_per_s:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._bytes_per_s
            wait_s = self._free_at - now
        ended.wait(wait_s)
        lap(Part.PACE)
