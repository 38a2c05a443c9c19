"""Instant clones: whose they are and until when."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "clone",
        sa.Column("cluster_id", sa.Text(), sa.ForeignKey("cluster.id"), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), server_default="", nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("durable", sa.Boolean(), nullable=False),
        sa.Column("pinned_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("cluster_id"),
    )
