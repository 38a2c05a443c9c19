"""Several programs on one storage that has no locks: each can be made to sleep, or to die, at any of its calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from icecore.errors import IcecoreError, StorageFailed
from icecore.storage import StoredObject
from icecore.storage.memory import MemoryStorage

T = TypeVar("T")


class NoLease:
    """What a lock is worth when its holder was paused: everybody has it, and is told so."""

    epoch = 1

    def confirm(self) -> None: ...
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Program(MemoryStorage):
    """One program's view of ``world``. ``fail_at`` and ``effect`` as there; it is dead from then on.

    ``sleep_at``: before its so-manieth call it waits for ``wake``. ``hidden``: what its listings leave out.
    """

    def __init__(
        self,
        world: MemoryStorage,
        *,
        fail_at: int | None = None,
        effect: bool = False,
        sleep_at: int | None = None,
        hidden: Callable[[str], bool] = lambda name: False,
    ) -> None:
        super().__init__(fail_at, effect=effect, stay_down=True)
        self.objects, self.unsynced, self._lock = world.objects, world.unsynced, world._lock
        self._sleep_at, self._hidden = sleep_at, hidden
        self.asleep, self._awake, self._gone = threading.Event(), threading.Event(), False
        self._slept_calls = 0

    def lease(self, name: str) -> NoLease:  # type: ignore[override]
        return self._call("lease", name, NoLease)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        return (found for found in super().list(prefix) if not self._hidden(found.name))

    def wake(self, *, dead: bool = False) -> None:
        self._gone = dead
        self._awake.set()

    def _call(self, doing: str, name: str, effect: Callable[[], T]) -> T:
        self._slept_calls += 1
        if self._slept_calls == self._sleep_at:
            self.asleep.set()
            self._awake.wait()
        if self._gone:
            raise StorageFailed(doing=doing, name=name, reason="the machine is gone")
        return super()._call(doing, name, effect)


class Sleeper:
    """``work`` in a thread of its own, until its program sleeps; ``end`` lets it go on to its end."""

    def __init__(self, program: Program, work: Callable[[Program], Any]) -> None:
        self.program, self.error, self.done = program, None, False  # type: ignore[var-annotated]
        self._ended = threading.Event()

        def body() -> None:
            try:
                work(program)
                self.done = True
            except (IcecoreError, RuntimeError) as error:
                self.error = error
            finally:
                self._ended.set()
                program.asleep.set()

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()
        assert program.asleep.wait(30)

    @property
    def sleeping(self) -> bool:
        return not self._ended.is_set()

    def end(self, *, dead: bool = False) -> None:
        self.program.wake(dead=dead)
        self._thread.join(30)
        assert not self._thread.is_alive()
