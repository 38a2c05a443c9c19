"""How fast each cluster may be read, and what bound a job."""

from __future__ import annotations

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Filled in with the tables it is named after."""
