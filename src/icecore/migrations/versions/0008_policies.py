"""Backup policies: when clusters are backed up, how long backups stay, which are held."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("backup", sa.Column("held_reason", sa.Text(), nullable=True))
    op.add_column("backup", sa.Column("expires_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "policy",
        sa.Column("cluster_id", sa.Text(), sa.ForeignKey("cluster.id"), primary_key=True),
        sa.Column("weekdays", sa.Text(), nullable=False),
        sa.Column("start_minute", sa.Integer(), nullable=False),
        sa.Column("per_day", sa.Integer(), nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column("long_days", sa.Integer(), nullable=False),
        sa.Column("long_weekdays", sa.Text(), nullable=False),
        sa.Column("drill_days", sa.Integer(), nullable=False),
        sa.Column("on_deletion", sa.Text(), nullable=False),
        sa.Column("taken_slot", sa.BigInteger(), nullable=False),
    )
