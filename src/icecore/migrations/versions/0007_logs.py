"""Log backup: its state by cluster."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("cluster", sa.Column("log_backup", sa.Boolean(), server_default=sa.text("1"), nullable=False))
    op.execute("UPDATE cluster SET log_backup = 0 WHERE origin <> 'registered'")
    op.create_table(
        "log_state",
        sa.Column("cluster_id", sa.Text(), sa.ForeignKey("cluster.id"), primary_key=True),
        sa.Column("timeline", sa.Integer(), server_default="0", nullable=False),
        sa.Column("durable", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("server_position", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("known_at_us", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("quiet", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.Column("slot", sa.Boolean(), server_default=sa.text("1"), nullable=False),
        sa.Column("told_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("error_code", sa.Text(), server_default="", nullable=False),
        sa.Column("error_message", sa.Text(), server_default="", nullable=False),
        sa.Column("windows", sa.Text(), server_default="[]", nullable=False),
    )
    op.create_table(
        "log_gap",
        sa.Column("cluster_id", sa.Text(), sa.ForeignKey("cluster.id"), primary_key=True),
        sa.Column("timeline", sa.Integer(), primary_key=True),
        sa.Column("start", sa.BigInteger(), primary_key=True),
        sa.Column("end", sa.BigInteger(), nullable=False),
        sa.Column("noted_at", sa.BigInteger(), nullable=False),
    )
