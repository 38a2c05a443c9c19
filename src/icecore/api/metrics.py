"""``/metrics`` for Prometheus: the figures that alerts and graphs are made of, read anew at each scrape.

Names of clusters and the state of their backups are nobody else's business: a scrape needs the home's ``metrics_token``
as its bearer token; while none is set, it must come from this very machine.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from icecore import __version__

Row = dict[str, Any]


def route(figures: Callable[[], dict[str, list[Row]]], token: str) -> Route:
    """``figures``: what ``catalog.figures`` gives, with ``repository`` beside it."""

    def scrape(http: Request) -> Response:
        if not _allowed(http, token):
            return PlainTextResponse("a bearer token is needed: the home's metrics_token\n", 401)
        body, kind = rendered(figures())
        return Response(body, 200, {"content-type": kind})

    return Route("/metrics", scrape)


def _allowed(http: Request, token: str) -> bool:
    if token:
        given = http.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
    if http.client is None or "x-forwarded-for" in http.headers or "forwarded" in http.headers:
        return False  # a proxy on this machine speaks for somebody elsewhere
    try:
        return ipaddress.ip_address(http.client.host).is_loopback
    except ValueError:
        return False


def rendered(figures: dict[str, list[Row]]) -> tuple[bytes, str]:
    """The text of a scrape and its content type."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(figures))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collector:
    def __init__(self, figures: dict[str, list[Row]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        def gauge(name: str, text: str, rows: Iterable[Row], value: str, *labels: str) -> Any:
            family = GaugeMetricFamily(f"icecore_{name}", text, labels=labels)
            for row in rows:
                if row.get(value) is not None:
                    family.add_metric([str(row[label]) for label in labels], float(row[value]))
            return family

        yield gauge("build_info", "Always 1.", [{"version": __version__, "one": 1}], "one", "version")
        clusters = self._figures["clusters"]
        for name, text, value in (
            ("cluster_up", "Whether the last look reached the server.", "up"),
            ("cluster_size_bytes", "Size of the cluster.", "size_bytes"),
            (
                "backup_newest_timestamp_seconds",
                "The moment that the newest restorable backup stands for.",
                "newest_at",
            ),
            ("backup_newest_size_bytes", "Logical size of that backup.", "newest_size_bytes"),
            ("lose_now_seconds", "How much would be lost if the cluster were lost now.", "lose_now_s"),
            ("backup_verified_timestamp_seconds", "When a backup was last verified by a restore.", "verified_at"),
            ("policy_overdue_seconds", "For how long an automatic backup has been due; 0 if none is.", "overdue_s"),
            ("drill_overdue_seconds", "For how long a verification has been due; 0 if none is.", "drill_overdue_s"),
            ("image_bytes", "Space of the cluster's own file systems that images hold.", "image_bytes"),
        ):
            yield gauge(name, text, clusters, value, "cluster", "cluster_id")
        yield gauge("backups", "Restorable backups.", self._figures["backups"], "count", "cluster_id", "mode")
        yield gauge("jobs", "Jobs that have not ended.", self._figures["jobs"], "count", "kind", "state")
        failed = CounterMetricFamily("icecore_jobs_failed", "Jobs that failed, by error.", labels=["kind", "code"])
        for row in self._figures["failed"]:
            failed.add_metric([row["kind"], row["code"]], row["count"])
        yield failed
        for name, text in (
            ("stored_bytes", "What the repository takes."),
            ("logical_bytes", "What its backups would take one by one."),
            ("free_bytes", "Room left where the repository lies."),
        ):
            yield gauge(f"repository_{name}", text, self._figures["repository"], name)
