"""What a check or a verification found of one backup, as it is kept with it in the repository. Pure.

*Check*: its bytes are intact. *Verify*: it was restored, started and queried. Texts may quote the database's own data
(a failed assertion's query, a server's complaint), so evidence is sealed like everything else of a backup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

NOTES_AT_MOST = 20
NOTE_LENGTH = 500
ROWS_AT_MOST = 500  # tables with their row counts


class ProofKind(StrEnum):
    CHECK = "check"
    VERIFY = "verify"


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not-run"


@dataclass(frozen=True)
class Examination:
    """One kind of look. ``count``: how many ``of`` (indexes, pages) were looked at. ``notes``: what failed, what was
    left out, why it did not run. ``rows``: table and its rows."""

    name: str
    outcome: Outcome
    count: int = 0
    of: str = ""
    took_s: float = 0.0
    notes: tuple[str, ...] = ()
    rows: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Evidence:
    """``number``: decimal digits, that of the job, or of the millisecond where there is none."""

    kind: ProofKind
    number: str
    backup_id: str
    cluster_id: str
    outcome: Outcome
    consistent_at: int  # the backup's
    started_at: int
    ended_at: int
    host: str
    tool_version: str
    server_version: str = ""
    share: float = 1.0  # of the packs, by a check
    read_bytes: int = 0  # of the repository, by a check
    restored_bytes: int = 0
    image_bytes: int = 0  # of these, shared with the backup's image and not read from the repository
    restore_s: float = 0.0
    start_s: float = 0.0  # of these, nearly all is the replay of the log
    examinations: tuple[Examination, ...] = ()

    def failures(self) -> list[str]:
        """A line for each examination that failed, with the first thing it found."""
        failed = [each for each in self.examinations if each.outcome is Outcome.FAILED]
        return [f"{each.name}: {each.notes[0] if each.notes else 'failed'}" for each in failed]


def outcome_of(examinations: Sequence[Examination]) -> Outcome:
    """What did not run does not fail; it is in the evidence as not run, and never as passed."""
    return Outcome.FAILED if any(each.outcome is Outcome.FAILED for each in examinations) else Outcome.PASSED


def bounded(notes: Sequence[str]) -> tuple[str, ...]:
    """At most so many lines of at most so many characters, the last one saying how many are left out."""
    kept = [" ".join(note.split())[:NOTE_LENGTH] for note in notes[:NOTES_AT_MOST]]
    return (*kept, f"and {len(notes) - NOTES_AT_MOST} more") if len(notes) > NOTES_AT_MOST else tuple(kept)


def to_dict(evidence: Evidence) -> dict[str, Any]:
    """JSON-ready; read back by ``from_dict``."""
    return asdict(evidence)


def from_dict(found: dict[str, Any]) -> Evidence:
    """Unknown keys (a later version's) are passed over. KeyError, TypeError or ValueError where one is wrong."""
    examinations = tuple(
        Examination(
            **{
                **_known(Examination, each),
                "outcome": Outcome(each["outcome"]),
                "notes": tuple(each.get("notes", ())),
                "rows": tuple((str(name), int(count)) for name, count in each.get("rows", ())),
            }
        )
        for each in found.get("examinations", ())
    )
    known = _known(Evidence, found) | {"kind": ProofKind(found["kind"]), "outcome": Outcome(found["outcome"])}
    return Evidence(**{**known, "examinations": examinations})


def _known(kind: type[Any], found: dict[str, Any]) -> dict[str, Any]:
    return {field.name: found[field.name] for field in fields(kind) if field.name in found}
