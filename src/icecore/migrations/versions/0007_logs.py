"""Log backup: its state by cluster."""

from __future__ import annotations

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Filled in with the tables it is named after."""
