"""A serving process: the endpoint and, unless told otherwise, a worker beside it. Ends cleanly on SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from icecore import config as home
from icecore import errors
from icecore.app import App
from icecore.config import Config, Endpoint
from icecore.worker import Worker

log = structlog.get_logger()


def serve(
    config: Config,
    *,
    listen: str | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    self_signed: bool = False,
    with_worker: bool = True,
    announce: Callable[[str], None] = lambda _: None,
) -> None:
    """Blocks until SIGTERM or SIGINT. ``announce`` is given the endpoint once calls are answered.

    Errors: Refused (the address is taken, the home is of a later version, a bad certificate).
    """
    from icecore import console
    from icecore.api import metrics
    from icecore.api import server as wire

    # The certificate, if any
    if self_signed:
        tls_cert, tls_key = wire.self_signed(config.home / "keys")

    # The home, brought to the present schema; a lost catalog is filled from the repository
    app = App(config)
    app.recover_catalog()

    # The socket first: a taken address must not start a worker
    host, port = split_listen(listen or config.listen)
    scrape = metrics.route(app.figures, config.metrics_token)
    application = wire.build_app(app, pages=lambda gateway: [*console.pages(gateway, app), scrape])
    server = wire.Server(application, host, port, tls_cert, tls_key)
    worker = Worker(config, app.catalog, archives=True) if with_worker else None
    if worker is not None:
        worker.start()
    scheme = "https" if tls_cert else "http"
    address = server.endpoint.partition("://")[2]
    home.save_endpoint(config, Endpoint(address, scheme, str(tls_cert or ""), os.getpid()))
    announce(server.endpoint)
    log.info("serving", endpoint=server.endpoint, worker=with_worker)

    # Answer calls; then hand running jobs over and leave
    try:
        server.serve()
    finally:
        home.forget_endpoint(config)
        if worker is not None:
            worker.stop()
        app.close()
        log.info("stopped")
        _leave(worker)


def work(config: Config, *, announce: Callable[[str], None] = lambda _: None) -> None:
    """A worker alone, for a host that answers no calls. Blocks until SIGTERM or SIGINT."""
    app = App(config)
    worker = Worker(config, app.catalog, archives=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    worker.start()
    announce(worker.executor_id)
    stop.wait()
    worker.stop()
    app.close()
    _leave(worker)


def _leave(worker: Worker | None) -> None:
    """A job that hears nothing must not keep the process: what it holds goes with it, as in a kill."""
    if worker is not None and not worker.idle():
        log.warning("leaving with a job still at work; it is taken up by the next start")
        sys.stdout.flush()
        os._exit(0)


def split_listen(listen: str) -> tuple[str, int]:
    """``HOST:PORT``; an IPv6 host stands in brackets."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise errors.Usage(reason=f"{listen} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def log_to_stderr(level: str = "info") -> None:
    """One JSON object a line on stderr, without secrets: no event is given one."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
