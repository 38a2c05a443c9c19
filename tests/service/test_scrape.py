"""Who may scrape, and that the figures are those of the catalog."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import Response
from test_catalog import finish

from icecore.api import metrics


def scrape(desk, token: str, host: str, headers: dict[str, str] | None = None) -> Response:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/metrics",
        "client": (host, 50000) if host else None,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
    }
    return metrics.route(desk.app.figures, token).endpoint(Request(scope))


@pytest.mark.parametrize(
    ("token", "host", "headers", "status"),
    [
        ("", "127.0.0.1", {}, 200),
        ("", "::1", {}, 200),
        ("", "10.0.0.9", {}, 401),
        ("", "127.0.0.1", {"x-forwarded-for": "10.0.0.9"}, 401),
        ("", "", {}, 401),
        ("s3cret", "10.0.0.9", {"authorization": "Bearer s3cret"}, 200),
        ("s3cret", "127.0.0.1", {}, 401),
        ("s3cret", "10.0.0.9", {"authorization": "Bearer s3cre"}, 401),
        ("s3cret", "10.0.0.9", {"authorization": "Bearer \u00e9"}, 401),
    ],
)
def test_who_may_scrape(desk, token, host, headers, status):
    answer = scrape(desk, token, host, headers)
    assert answer.status_code == status
    assert (b"icecore_build_info" in answer.body) == (status == 200)


def test_figures_are_those_of_the_catalog(desk):
    finish(desk, desk.create())
    desk.create()
    text = scrape(desk, "", "127.0.0.1").body.decode()
    labels = f'{{cluster="orders",cluster_id="{desk.cluster_id}"}}'
    assert f"icecore_cluster_up{labels} 1.0" in text
    assert f"icecore_backup_newest_timestamp_seconds{labels} 119.0" in text
    assert f'icecore_backups{{cluster_id="{desk.cluster_id}",mode="Manual"}} 1.0' in text
    assert 'icecore_jobs{kind="backup",state="queued"} 1.0' in text
    assert "icecore_policy_overdue_seconds{" not in text and "icecore_repository_free_bytes " in text
