"""Instant clones: whose they are and until when."""

from __future__ import annotations

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Filled in with the tables it is named after."""
