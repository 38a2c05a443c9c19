"""What checks and verifications found, by backup."""

from __future__ import annotations

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Filled in with the tables it is named after."""
