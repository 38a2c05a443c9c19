"""The catalog's tables. Constraints carry the rules: what a docstring promises, the database enforces.

Times are whole Unix seconds (UTC); ids are decimal digits in text. Nothing here is needed to restore (R8): a
lost catalog is rebuilt from the manifests.
"""

from __future__ import annotations

import itertools

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
    sa.Column("origin", sa.Text, nullable=False),  # "registered", "restored" or "clone"
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
    # what the last look found: local is NULL before the first, findings a JSON list of {severity, message, hint}
    sa.Column("local", sa.Boolean),
    sa.Column("data_directory", sa.Text, nullable=False, server_default=""),
    sa.Column("findings", sa.Text, nullable=False, server_default="[]"),
    sa.Column("image_bytes", sa.BigInteger, nullable=False, server_default="0"),  # pinned by images alone
    sa.Column("max_rate_bytes_s", sa.BigInteger),  # that its backups may read, 0 for no limit; NULL: as the home says
    sa.Column("background", sa.Boolean),  # the same
    sa.Column("log_backup", sa.Boolean, nullable=False, server_default=sa.true()),  # its log is archived
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
    sa.Column("imaged", sa.Boolean, nullable=False, server_default=sa.false()),  # an image of it is kept: Level-1
    # of the newest check and the newest verification: when it ended, and passed or failed
    sa.Column("checked_at", sa.BigInteger),
    sa.Column("check_outcome", sa.Text, nullable=False, server_default=""),
    sa.Column("verified_at", sa.BigInteger),
    sa.Column("verify_outcome", sa.Text, nullable=False, server_default=""),
    sa.Column("held_reason", sa.Text),  # not NULL: no policy lets it expire
    sa.Column("expires_at", sa.BigInteger),  # not NULL: a policy's verdict; removed then, unless the verdict changes
    # the newest restorable one of a cluster, and its place in the quota, without reading the others
    sa.Index("backups_by_verdict", "cluster_id", "status", "consistent_at", "id"),
    sa.Index("backups_by_mode", "cluster_id", "mode", "status"),
)
# each list of the history reads as many rows as it shows: one index for each way to filter, in the list's order
SHOWN = backup.c.status != sa.literal_column("'Deleting'")  # a literal: SQLite must recognise the index's condition
sa.Index("backups_in_order", backup.c.accepted_at, backup.c.id, sqlite_where=SHOWN)
sa.Index("backups_of_cluster", backup.c.cluster_id, backup.c.accepted_at, backup.c.id, sqlite_where=SHOWN)

proof = sa.Table(  # a copy of what the repository keeps with each backup
    "proof",
    metadata,
    sa.Column("backup_id", sa.Text, primary_key=True),
    sa.Column("number", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),  # "check" or "verify"
    sa.Column("ended_at", sa.BigInteger, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),  # JSON
    sa.Index("proofs_in_order", "backup_id", "ended_at", "number"),
)

policy = sa.Table(  # a cluster without a row is backed up when somebody asks
    "policy",
    metadata,
    sa.Column("cluster_id", sa.Text, sa.ForeignKey("cluster.id"), primary_key=True),
    sa.Column("weekdays", sa.Text, nullable=False),  # digits, 0: Monday
    sa.Column("start_minute", sa.Integer, nullable=False),  # of the day, UTC
    sa.Column("per_day", sa.Integer, nullable=False),
    sa.Column("days", sa.Integer, nullable=False),
    sa.Column("long_days", sa.Integer, nullable=False),  # 0: none, -1: for ever
    sa.Column("long_weekdays", sa.Text, nullable=False),  # empty: all
    sa.Column("drill_days", sa.Integer, nullable=False),  # between verifications; 0: none
    sa.Column("on_deletion", sa.Text, nullable=False),  # ALL, LATEST or NONE
    sa.Column("taken_slot", sa.BigInteger, nullable=False),  # the last one that had its backup; grows only
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
    sa.Column("spent", sa.Text, nullable=False, server_default="{}"),  # JSON: milliseconds by binding.Part
    sa.Column("queued_at", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("error_code", sa.Text, nullable=False, server_default=""),
    sa.Column("error_message", sa.Text, nullable=False, server_default=""),
    sa.Column("error_hint", sa.Text, nullable=False, server_default=""),
    # C3: one running job per cluster, so one running backup; beside it one removal of a backup's manifest
    sa.Index(
        "one_running_per_cluster",
        "cluster_id",
        unique=True,
        sqlite_where=sa.text("state = 'running' AND kind <> 'delete-backup'"),
    ),
    sa.Index(
        "one_removal_per_cluster",
        "cluster_id",
        unique=True,
        sqlite_where=sa.text("state = 'running' AND kind = 'delete-backup'"),
    ),
    # one index for each way to filter the list, in its order: no page reads more rows than it shows
    *(
        sa.Index("_".join(("jobs_by", *filters, "queue")), *filters, "queued_at", "id")
        for count in range(4)
        for filters in itertools.combinations(("cluster_id", "kind", "state"), count)
    ),
    # whether a backup is being restored or removed
    sa.Index("jobs_of_backup", "backup_id", "state"),
)

clone = sa.Table(  # of a cluster with the origin "clone"
    "clone",
    metadata,
    sa.Column("cluster_id", sa.Text, sa.ForeignKey("cluster.id"), primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),  # an access key's id, or "user NAME" of the operating system
    sa.Column("purpose", sa.Text, nullable=False, server_default=""),
    sa.Column("expires_at", sa.BigInteger, nullable=False),  # 0: never
    sa.Column("durable", sa.Boolean, nullable=False),
    sa.Column("pinned_bytes", sa.BigInteger, nullable=False, server_default="0"),  # on the disk, by it alone
)

repository_day = sa.Table(  # how large the repository was: cannot be found out later, so it lies with the catalog
    "repository_day",
    metadata,
    sa.Column("day", sa.Text, primary_key=True),  # YYYY-MM-DD, UTC
    sa.Column("noted_at", sa.BigInteger, nullable=False),
    sa.Column("stored_bytes", sa.BigInteger, nullable=False),
    sa.Column("logical_bytes", sa.BigInteger, nullable=False),
)

log_state = sa.Table(  # of log backup, as last told; positions as numbers
    "log_state",
    metadata,
    sa.Column("cluster_id", sa.Text, sa.ForeignKey("cluster.id"), primary_key=True),
    sa.Column("timeline", sa.Integer, nullable=False, server_default="0"),
    sa.Column("durable", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("server_position", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("known_at_us", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("quiet", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("slot", sa.Boolean, nullable=False, server_default=sa.true()),  # the server may keep log for us
    sa.Column("told_at", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("error_code", sa.Text, nullable=False, server_default=""),
    sa.Column("error_message", sa.Text, nullable=False, server_default=""),
    sa.Column("windows", sa.Text, nullable=False, server_default="[]"),  # JSON: [[since_us, until_us, timeline]]
)

log_gap = sa.Table(  # what is lost of the log for good
    "log_gap",
    metadata,
    sa.Column("cluster_id", sa.Text, sa.ForeignKey("cluster.id"), primary_key=True),
    sa.Column("timeline", sa.Integer, primary_key=True),
    sa.Column("start", sa.BigInteger, primary_key=True),
    sa.Column("end", sa.BigInteger, nullable=False),
    sa.Column("noted_at", sa.BigInteger, nullable=False),
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
