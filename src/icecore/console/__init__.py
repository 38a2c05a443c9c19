"""The console: pages for people, beside the endpoint and in the same process.

``pages`` lists every address with the function that answers it. A page reads by ``Visit.doors.read`` and acts by
``Visit.doors.send`` (``doors.py``); how it looks is in ``templates/``, with ``layout.html`` around it.
"""

from __future__ import annotations

from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from icecore.api import openapi
from icecore.api.server import Gateway
from icecore.console import (
    access,
    acts,
    backups,
    clusters,
    errorcenter,
    explorer,
    overview,
    repository,
    restoring,
    signing_in,
    tasks,
    view,
)
from icecore.console.doors import ConsoleBackend
from icecore.console.live import Live
from icecore.console.visit import Site, Visit


def pages(gateway: Gateway, backend: ConsoleBackend) -> list[BaseRoute]:
    """Routes for ``api.server.build_app``."""
    view.load()
    site = Site(gateway, backend)
    signing = signing_in.SigningIn(site)
    private, open_ = site.private, site.open
    return [
        Route("/console", private(overview.page)),
        Route("/console/", lambda _: RedirectResponse("/console", 303, view.HEADERS)),
        Route("/console/act", private(acts.act), methods=["POST"]),
        Route("/console/confirm", private(acts.confirm)),
        Route("/console/clusters/{cluster_id}", private(clusters.page)),
        Route("/console/backups/{backup_id}", private(backups.page)),
        Route("/console/restore", private(restoring.page)),
        Route("/console/tasks", private(tasks.page)),
        Route("/console/tasks/events", Live(site).events),
        Route("/console/tasks/{job_id}", private(tasks.one)),
        Route("/console/repository", private(repository.page)),
        Route("/console/access", private(access.page)),
        Route("/console/explorer", private(explorer.index)),
        Route("/console/explorer/{action}", private(explorer.page), methods=["GET", "POST"]),
        Route("/console/sign-in", open_(signing.form)),
        Route("/console/sign-in", open_(signing.sign_in), methods=["POST"]),
        Route("/console/sign-out", private(signing.sign_out), methods=["POST"]),
        Route("/console/static/{name}", open_(_static)),
        Route("/openapi.json", open_(_openapi)),
        Route("/errors", open_(errorcenter.index)),
        Route("/errors/{code:path}", open_(errorcenter.one)),
        Route("/console/{rest:path}", private(_missing), methods=["GET", "POST"]),
    ]


def _openapi(visit: Visit) -> Response:
    """The contract for other tools; the same as docs/openapi.json, with this server's address."""
    return JSONResponse(openapi.document(visit.endpoint), headers=view.HEADERS)


def _static(visit: Visit) -> Response:
    return view.static(visit.part["name"]) or _missing(visit)


def _missing(visit: Visit) -> Response:
    return visit.page("missing.html", 404, title="Not found")
