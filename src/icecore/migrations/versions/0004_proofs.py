"""What checks and verifications found, by backup."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("backup", sa.Column("checked_at", sa.BigInteger(), nullable=True))
    op.add_column("backup", sa.Column("check_outcome", sa.Text(), server_default="", nullable=False))
    op.add_column("backup", sa.Column("verified_at", sa.BigInteger(), nullable=True))
    op.add_column("backup", sa.Column("verify_outcome", sa.Text(), server_default="", nullable=False))
    op.create_table(
        "proof",
        sa.Column("backup_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("backup_id", "number", "kind"),
    )
    op.create_index("proofs_in_order", "proof", ["backup_id", "ended_at", "number"])
