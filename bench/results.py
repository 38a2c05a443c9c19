"""What was measured, kept in a file from the first number on: an interrupted run still gives a page, and several runs
give one page together."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measure import Measured

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "bench" / "results"
BASELINE = "icecore"


@dataclass(frozen=True)
class Record:
    """One tool's go at one case, in one round."""

    case: str
    tool: str
    round: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    stored_bytes: int  # by how much its repository grew
    label: str = ""  # of what size or state the data was, where that changes within a run
    more: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        case: str,
        tool: str,
        number: int,
        taken: Measured,
        *,
        stored_bytes: int = 0,
        label: str = "",
        **more: float,
    ) -> Record:
        return cls(case, tool, number, taken.wall_s, taken.cpu_s, taken.peak_bytes, stored_bytes, label, more)


@dataclass
class Section:
    """One run: what there is to say of it, and its records."""

    path: Path
    title: str
    command: str
    rounds: int
    plain: bool
    began: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    load: float = 0.0  # the most that the machine had to do besides, before a round
    machine: str = ""
    data: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # by tool
    absent: dict[str, str] = field(default_factory=dict)  # by tool: why
    failures: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def add(self, record: Record) -> None:
        self.records.append(record)
        self.save()

    def failed(self, what: str) -> None:
        self.failures.append(what)
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self) | {"path": self.path.name}, indent=1), encoding="utf-8")
        new.replace(self.path)

    def of(self, case: str) -> dict[str, list[Record]]:
        """By tool, in the order in which tools were named; rounds in order."""
        found: dict[str, list[Record]] = {tool: [] for tool in self.notes}
        for record in self.records:
            if record.case == case:
                found.setdefault(record.tool, []).append(record)
        return {tool: records for tool, records in found.items() if records}


def load(path: Path) -> Section:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    document["records"] = [Record(**record) for record in document["records"]]
    return Section(**document | {"path": path})


def sections(directory: Path = KEPT) -> list[Section]:
    """All that are kept, in the order of their names."""
    return [load(path) for path in sorted(directory.glob("*.json"))]
