"""What a manifest keeps of a PostgreSQL source besides its files: all that a restore needs on a machine that never saw
the source (R8).

Keys, all JSON: ``version_number`` 150018 · ``version`` "15.18" · ``major`` "15" · ``system_identifier`` (a string: it
has 64 bits) · ``catalog_version`` · ``page_bytes`` · ``log_segment_bytes`` · ``checksums`` · ``in_recovery`` ·
``route`` "files" or "stream" · ``data_directory`` · ``data_directory_mode`` "0700" ·
``role`` (bootstrap superuser) · ``binaries_directory`` · ``tablespaces`` ``[{"oid", "name", "location",
"size_bytes"}]`` · ``settings`` (as strings) · ``configuration`` (see ``configuration.collect``) · ``links`` (links of
the source that were followed) · ``exclusions`` · ``databases`` ``[{"name", "encoding", "collate", "ctype", "provider",
"collation_version"}]`` · ``libc``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from icecore.engines.postgresql.connect import query
from icecore.engines.postgresql.source import Source, binaries_directory
from icecore.engines.postgresql.walk import EXCLUSIONS

if TYPE_CHECKING:
    import psycopg

# fmt: off
_KEPT_SETTINGS = (
    "max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions",
    "max_locks_per_transaction", "shared_preload_libraries", "session_preload_libraries", "local_preload_libraries",
    "port", "listen_addresses", "cluster_name", "ssl", "archive_mode", "wal_level", "server_encoding",
    "stats_temp_directory",
)
# fmt: on


def collect(
    source: Source,
    *,
    configuration: Mapping[str, Any],
    route: str,
    links: Mapping[str, str],
    tablespace_bytes: Mapping[str, int],
) -> dict[str, Any]:
    local = route == "files"
    return {
        "version_number": source.version_number,
        "version": source.version,
        "major": source.major,
        "system_identifier": str(source.system_identifier),
        "catalog_version": source.catalog_version,
        "page_bytes": source.page_bytes,
        "log_segment_bytes": source.segment_bytes,
        "checksums": source.checksums,
        "in_recovery": source.in_recovery,
        "route": route,
        "data_directory": source.data_directory,
        "data_directory_mode": source.settings.get("data_directory_mode", "0700"),
        "role": source.bootstrap_role,
        "binaries_directory": binaries_directory(source) if local else "",
        "tablespaces": [
            {
                "oid": space.oid,
                "name": space.name,
                "location": space.location,
                "size_bytes": tablespace_bytes.get(str(space.oid), 0),
            }
            for space in source.tablespaces
            if space.location.startswith("/")  # one in place is a plain directory
        ],
        "settings": {name: source.settings[name] for name in _KEPT_SETTINGS if name in source.settings},
        "configuration": dict(configuration),
        "links": dict(links),
        "exclusions": list(EXCLUSIONS),
        "libc": (os.confstr("CS_GNU_LIBC_VERSION") or "") if local else "",
    }


def locales(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """Text order depends on the operating system's libraries: an index restored elsewhere may need to be rebuilt."""
    modern = connection.info.server_version >= 150000
    rows = query(
        connection,
        "asking for collations",
        f"""SELECT datname::text, pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text,
                   {"datlocprovider::text, datcollversion" if modern else "'c', NULL"}
            FROM pg_database ORDER BY datname""",
    )
    keys = ("name", "encoding", "collate", "ctype", "provider", "collation_version")
    return {"databases": [dict(zip(keys, row, strict=True)) for row in rows]}
