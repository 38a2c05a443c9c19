"""A backup is removed beside its cluster's running job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.drop_index("one_running_per_cluster", "job")
    for name, sign in (("one_running_per_cluster", "<>"), ("one_removal_per_cluster", "=")):
        condition = sa.text(f"state = 'running' AND kind {sign} 'delete-backup'")
        op.create_index(name, "job", ["cluster_id"], unique=True, sqlite_where=condition)
