"""Which backup still has an image on the cluster's own file system, and what images pin there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("backup", sa.Column("imaged", sa.Boolean(), server_default=sa.text("0"), nullable=False))
    op.add_column("cluster", sa.Column("image_bytes", sa.BigInteger(), server_default="0", nullable=False))
