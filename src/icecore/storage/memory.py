"""Storage in memory with a power switch: the world that tests and fault sweeps run in.

Same contract as every other storage. It can fail at its n-th call, before or after that call had its effect, once
or for good (the machine is down), and afterwards show what a power cut would have left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from icecore.errors import Damaged, IcecoreError, LeaseHeld, ObjectExists, ObjectMissing, StorageFailed
from icecore.storage import Buffer, StoredObject
from icecore.storage.local import checked_name, checked_prefix

T = TypeVar("T")


class MemoryStorage:
    """``Storage`` in a dictionary.

    ``fail_at=n``: the n-th call (from 1; a listing is one call) raises ``StorageFailed``.
    ``effect=True``: after it had its effect, like a reply that got lost.
    ``stay_down=True``: and so does every later call, like a machine that lost power.
    ``lose_unsynced=True``: ``after_crash()`` forgets what no barrier made durable, or keeps of it what it is told to.
    """

    def __init__(
        self,
        fail_at: int | None = None,
        *,
        lose_unsynced: bool = False,
        effect: bool = False,
        stay_down: bool = False,
    ) -> None:
        self.fail_at, self.lose_unsynced, self.effect, self.stay_down = fail_at, lose_unsynced, effect, stay_down
        self.calls = 0
        self.objects: dict[str, bytes] = {}
        self.unsynced: set[str] = set()
        self.epochs: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._lock = threading.RLock()

    def __str__(self) -> str:
        return "memory"

    def after_crash(self, survives: Callable[[str, bytes], bytes | None] = lambda name, data: None) -> MemoryStorage:
        """A working storage with what a power cut would leave; leases are free, epochs are kept.

        ``survives`` says what is left of an object that no barrier made durable: all of it, a torn part, or None.
        """
        with self._lock:
            after = MemoryStorage(lose_unsynced=self.lose_unsynced)
            after.epochs = dict(self.epochs)
            for name, data in self.objects.items():
                left = survives(name, data) if self.lose_unsynced and name in self.unsynced else data
                if left is not None:
                    after.objects[name] = left
            return after

    def put(self, name: str, parts: Sequence[Buffer], *, durable: bool = True) -> None:
        def effect() -> None:
            if checked_name(name) in self.objects:
                raise ObjectExists(name=name)
            self.objects[name] = b"".join(parts)
            if not durable:
                self.unsynced.add(name)

        self._call("write", name, effect)

    def replace(self, name: str, data: Buffer) -> None:
        self._call("replace", name, lambda: self.objects.__setitem__(checked_name(name), bytes(data)))

    def barrier(self) -> None:
        self._call("flush", "everything", self.unsynced.clear)

    def get(self, name: str) -> bytes:
        return self._call("read", name, lambda: self._object(name))

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        def effect() -> list[bytes]:
            data = self._object(name)
            for offset, length in ranges:
                if offset < 0 or length < 0 or offset + length > len(data):
                    raise Damaged(name=name, reason=f"it has no {length} bytes at {offset}")
            return [data[offset : offset + length] for offset, length in ranges]

        return self._call("read", name, effect)

    def size_bytes(self, name: str) -> int:
        return self._call("read", name, lambda: len(self._object(name)))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        checked_prefix(prefix)
        names = self._call("list", prefix, lambda: sorted(n for n in self.objects if n.startswith(prefix)))
        for name in names:
            data = self.objects.get(name)
            if data is not None:
                yield StoredObject(name, len(data))

    def folders(self, prefix: str) -> Iterator[str]:
        def effect() -> Iterator[str]:
            rests = [name[len(prefix) :] for name in self.objects if name.startswith(prefix)]
            return iter(sorted({rest.partition("/")[0] for rest in rests if "/" in rest}))

        checked_prefix(prefix)
        return self._call("list", prefix, effect)

    def delete(self, name: str) -> None:
        def effect() -> None:
            self.objects.pop(checked_name(name), None)
            self.unsynced.discard(name)

        self._call("delete", name, effect)

    def lease(self, name: str) -> MemoryLease:
        def effect() -> MemoryLease:
            if checked_name(name) in self._held:
                raise LeaseHeld(name=name)
            self.epochs[name] = self._held[name] = self.epochs.get(name, 0) + 1
            return MemoryLease(self, name, self.epochs[name])

        try:
            return self._call("lease", name, effect)
        except StorageFailed:
            # The caller got no lease, so nobody holds one: a lost reply must not lock the name for ever.
            self._held.pop(name, None)
            raise

    def usurp(self, name: str) -> None:
        """Let another holder take the lease ``name``, as after a lock that was lost without notice."""
        with self._lock:
            self.epochs[name] = self.epochs.get(name, 0) + 1
            self._held.pop(name, None)

    # ------------------------------------------------------------ inside

    def _object(self, name: str) -> bytes:
        data = self.objects.get(checked_name(name))
        if data is None:
            raise ObjectMissing(name=name)
        return data

    def _call(self, doing: str, name: str, effect: Callable[[], T]) -> T:
        with self._lock:
            self.calls += 1
            failing = self.fail_at is not None and (
                self.calls == self.fail_at or (self.stay_down and self.calls > self.fail_at)
            )
            if not failing:
                return effect()
            if self.effect and self.calls == self.fail_at:
                with suppress(IcecoreError):
                    effect()
            raise StorageFailed(doing=doing, name=name, reason=f"simulated failure of call {self.calls}")


class MemoryLease:
    def __init__(self, storage: MemoryStorage, name: str, epoch: int) -> None:
        self._storage, self._name, self.epoch = storage, name, epoch

    def confirm(self) -> None:
        def effect() -> None:
            if self._storage._held.get(self._name) != self.epoch or self._storage.epochs[self._name] != self.epoch:
                raise LeaseHeld(name=self._name)

        self._storage._call("confirm", self._name, effect)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._storage._lock:
            if self._storage._held.get(self._name) == self.epoch:
                del self._storage._held[self._name]
