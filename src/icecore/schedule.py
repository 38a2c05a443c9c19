"""When automatic backups are due. Pure: moments are Unix seconds, days are UTC."""

from __future__ import annotations

from dataclasses import dataclass

DAY_S = 86_400
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FREQUENCIES = {"Normal": 1, "2/24H": 2, "3/24H": 3, "4/24H": 4}  # PolarDB's words -> backups a day
_EPOCH_WEEKDAY = 3  # 1 January 1970 was a Thursday


def weekday(moment: int) -> int:
    """0: Monday."""
    return (moment // DAY_S + _EPOCH_WEEKDAY) % 7


@dataclass(frozen=True)
class Schedule:
    """A slot at ``start_minute`` of each of the ``weekdays``; several a day, evenly spread, are on every day."""

    weekdays: frozenset[int]
    start_minute: int
    per_day: int = 1

    def last_slot(self, moment: int) -> int | None:
        """The latest slot that is not after ``moment``; None: there is none."""
        return next((slot for slot in self._around(moment) if slot <= moment), None)

    def next_slot(self, moment: int) -> int | None:
        """The first slot after ``moment``."""
        later = [slot for slot in self._around(moment + 8 * DAY_S) if slot > moment]
        return later[-1] if later else None

    def _around(self, moment: int) -> list[int]:
        """The slots of the eight days up to the day after ``moment``, the latest first."""
        today = moment // DAY_S * DAY_S
        step = DAY_S // self.per_day
        slots = []
        for day in range(today + DAY_S, today - 9 * DAY_S, -DAY_S):
            if self.per_day > 1 or weekday(day) in self.weekdays:
                slots += [day + self.start_minute * 60 % step + number * step for number in range(self.per_day)][::-1]
        return slots


def due(schedule: Schedule, now: int, taken: int) -> int | None:
    """The slot to make a backup for now, if any. ``taken``: the last slot that had its backup, or the moment the
    schedule began. Slots that passed while nobody looked are made up for by one backup, for the latest of them."""
    slot = schedule.last_slot(now)
    return slot if slot is not None and slot > taken else None
