"""The catalog's tables. Constraints carry the rules: what a docstring promises, the database enforces.

Times are whole Unix seconds (UTC); ids are decimal digits in text. Nothing here is needed to restore (R8): a
lost catalog is rebuilt from the manifests.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

cluster = sa.Table(
    "cluster",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("engine", sa.Text, nullable=False),
    sa.Column("dsn", sa.Text, nullable=False),  # never with a password
    sa.Column("origin", sa.Text, nullable=False),  # "registered" or "restored"
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("status_reason", sa.Text, nullable=False, server_default=""),
    sa.Column("major", sa.Text, nullable=False, server_default=""),
    sa.Column("version", sa.Text, nullable=False, server_default=""),
    sa.Column("region_id", sa.Text, nullable=False, server_default=""),
    sa.Column("node_class", sa.Text, nullable=False, server_default=""),
    sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("host", sa.Text, nullable=False, server_default=""),
    sa.Column("port", sa.Integer, nullable=False, server_default="0"),
    sa.Column("source_cluster_id", sa.Text, nullable=False, server_default=""),
    sa.Column("source_backup_id", sa.Text, nullable=False, server_default=""),
    sa.Column("clone_point", sa.Text, nullable=False, server_default=""),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("checked_at", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("deleted_at", sa.BigInteger),
    # a name is free again once its cluster is gone
    sa.Index("one_live_name", "name", unique=True, sqlite_where=sa.text("deleted_at IS NULL")),
)

backup = sa.Table(
    "backup",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("cluster_id", sa.Text, sa.ForeignKey("cluster.id"), nullable=False),
    sa.Column("job_uuid", sa.Text, nullable=False, unique=True),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("comment", sa.Text, nullable=False, server_default=""),
    sa.Column("client_token", sa.Text, nullable=False, server_default=""),
    sa.Column("token_digest", sa.Text, nullable=False, server_default=""),
    sa.Column("accepted_at", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("consistent_at", sa.BigInteger),
    sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("new_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("facts", sa.Text, nullable=False, server_default=""),  # the manifest's header as JSON, a copy
    sa.Index("backups_of_cluster", "cluster_id", "accepted_at"),
)

token = sa.Table(  # C2: one token, one effect, for ever; the primary key is the rule
    "token",
    metadata,
    sa.Column("action", sa.Text, primary_key=True),
    sa.Column("token", sa.Text, primary_key=True),  # compared byte for byte: case-sensitive
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("result_id", sa.Text, nullable=False),
    sa.Column("used_at", sa.BigInteger, nullable=False),
)

job = sa.Table(
    "job",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("cluster_id", sa.Text, sa.ForeignKey("cluster.id"), nullable=False),
    sa.Column("backup_id", sa.Text, nullable=False, server_default=""),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="0"),  # C4: grows with each claim
    sa.Column("executor_id", sa.Text, nullable=False, server_default=""),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("bytes_done", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("bytes_total", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("bytes_new", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("queued_at", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("error_code", sa.Text, nullable=False, server_default=""),
    sa.Column("error_message", sa.Text, nullable=False, server_default=""),
    sa.Column("error_hint", sa.Text, nullable=False, server_default=""),
    # C3: one running job per cluster, so one running backup, and no removal beside it
    sa.Index("one_running_per_cluster", "cluster_id", unique=True, sqlite_where=sa.text("state = 'running'")),
    sa.Index("jobs_by_state", "state", "queued_at"),
    sa.Index("jobs_of_cluster", "cluster_id", "queued_at"),
)

access_key = sa.Table(
    "access_key",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("sealed_secret", sa.LargeBinary, nullable=False),  # AES-256-GCM under keys/catalog.key
    sa.Column("security_token", sa.Text),
    sa.Column("role", sa.Text, nullable=False),  # "admin" or "reader"
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
