"""What a look at a cluster found, the repository's size day by day, and an index for each list that is paged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

SHOWN = sa.text("status != 'Deleting'")
JOB_LISTS = (
    (),
    ("cluster_id",),
    ("kind",),
    ("state",),
    ("cluster_id", "kind"),
    ("cluster_id", "state"),
    ("kind", "state"),
    ("cluster_id", "kind", "state"),
)


def upgrade() -> None:
    op.add_column("cluster", sa.Column("local", sa.Boolean(), nullable=True))
    op.add_column("cluster", sa.Column("data_directory", sa.Text(), server_default="", nullable=False))
    op.add_column("cluster", sa.Column("findings", sa.Text(), server_default="[]", nullable=False))
    op.create_table(
        "repository_day",
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("noted_at", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("logical_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day"),
    )
    op.drop_index("backups_of_cluster", "backup")
    op.create_index("backups_in_order", "backup", ["accepted_at", "id"], sqlite_where=SHOWN)
    op.create_index("backups_of_cluster", "backup", ["cluster_id", "accepted_at", "id"], sqlite_where=SHOWN)
    op.create_index("backups_by_verdict", "backup", ["cluster_id", "status", "consistent_at", "id"])
    op.create_index("backups_by_mode", "backup", ["cluster_id", "mode", "status"])
    op.drop_index("jobs_by_state", "job")
    op.drop_index("jobs_of_cluster", "job")
    for filters in JOB_LISTS:
        op.create_index("_".join(("jobs_by", *filters, "queue")), "job", [*filters, "queued_at", "id"])
    op.create_index("jobs_of_backup", "job", ["backup_id", "state"])
