"""How fast each cluster may be read, and what bound a job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("cluster", sa.Column("max_rate_bytes_s", sa.BigInteger(), nullable=True))
    op.add_column("cluster", sa.Column("background", sa.Boolean(), nullable=True))
    op.add_column("job", sa.Column("spent", sa.Text(), server_default="{}", nullable=False))
