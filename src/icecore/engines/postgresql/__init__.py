"""The PostgreSQL engine, versions 13 to 18.

``PostgresEngine`` backs a running server up: by reading its data directory where that is possible (``session``), by
``BASE_BACKUP`` where it is not (``stream``). ``PostgresRestore`` lays a backup down and starts servers on it. psycopg
is imported when a connection is made, not before: the command line starts without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from icecore.engines import BackupSession, LogStream, Probe
from icecore.engines.postgresql.dsn import address, refuse_secret
from icecore.engines.postgresql.restore import PostgresRestore
from icecore.errors import EngineRefused

if TYPE_CHECKING:
    from icecore.engines.postgresql.probe import Examination

__all__ = ["PostgresEngine", "PostgresRestore", "address", "refuse_secret"]

RETAINED_LIMIT_BYTES = 8 * 1024**3  # log the server may keep for us before we rather give up than fill its disk


class PostgresEngine:
    """Bound to one registered cluster by its DSN, which holds no password. ``name`` is for messages."""

    def __init__(
        self,
        dsn: str,
        password: str | None,
        *,
        name: str,
        retained_limit_bytes: int = RETAINED_LIMIT_BYTES,
        stream: bool = False,
    ) -> None:
        """``retained_limit_bytes``: log that the server may keep for a running backup before the backup gives up
        rather than fill the server's disk. ``stream``: use ``BASE_BACKUP`` even where the files could be read."""
        self._dsn = dsn
        self._password = password
        self._retained_limit_bytes = retained_limit_bytes
        self._stream = stream
        self.name = name

    def probe(self) -> Probe:
        from icecore.engines.postgresql.probe import report

        return report(self._examine())

    def start(self, label: str, scratch: Path) -> BackupSession:
        """The session begins with its ``with`` block; refusals come from here."""
        from icecore.engines.postgresql.probe import findings
        from icecore.engines.postgresql.session import LocalSession
        from icecore.engines.postgresql.stream import StreamSession

        # 1. Refuse what the probe refuses, with all reasons at once.
        seen = self._examine()
        refusals = [finding for finding in findings(seen) if finding.level == "refusal"]
        if refusals:
            raise EngineRefused(
                f"cluster {self.name} cannot be backed up: " + "; ".join(finding.what for finding in refusals),
                " ".join(finding.fix for finding in refusals),
            )
        # 2. Read files where they are; stream where they are not.
        kind: type[LocalSession] | type[StreamSession] = (
            StreamSession if self._stream or not seen.location.local else LocalSession
        )
        return kind(self._dsn, self._password, label, scratch, retained_limit_bytes=self._retained_limit_bytes)

    def log_stream(self, cluster_id: str) -> LogStream:
        from icecore.engines.postgresql.logstream import LogStream, slot_of

        return LogStream(self._dsn, self._password, slot_of(cluster_id))

    def forget_log(self, cluster_id: str) -> None:
        from icecore.engines.postgresql.logstream import drop_slot, slot_of

        drop_slot(self._dsn, self._password, slot_of(cluster_id))

    def _examine(self) -> Examination:
        from icecore.engines.postgresql.connect import connect_sql
        from icecore.engines.postgresql.probe import examine

        with connect_sql(self._dsn, self._password) as connection:
            return examine(connection, self._dsn, self._password)
